"""The adapter's dropout by rows: the same numbers of a row whatever it is packed with, the right share of them, and
PyTorch's own where nobody numbered the tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from florilegium.config import TrainConfig
from florilegium.model import ForwardOptions, LoadedModel, load_base, rows_drawn, token_losses
from florilegium.model.lora import attach_adapter
from florilegium.model.row_dropout import RowDropout
from florilegium.reference import dropout_keep
from florilegium.reference.dropout import AT_ONCE, STREAM, WORD, philox
from florilegium.tokens import Example, PackPlan, numbered, pack

SEED = 7
ROWS = [Example([4 + i] * size, [True] * size) for i, size in enumerate((9, 30, 5, 17, 24, 8))]


def losses_and_gradients(
    loaded: LoadedModel, rows: list[Example], plan: PackPlan, options: ForwardOptions
) -> dict[str, torch.Tensor]:
    """Of these rows together, dropout on, summed."""
    loaded.model.train()
    loaded.model.zero_grad()
    total = torch.zeros(())
    for batch in pack(rows, plan):
        batch.seed_1.fill_(SEED)
        with rows_drawn(batch):
            loss = token_losses(loaded, batch, options).sum()
            loss.backward()
        total += loss.detach()
    return {"loss": total, **{n: p.grad.clone() for n, p in loaded.model.named_parameters() if p.grad is not None}}


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("targets", ["auto", "all-linear"])
def test_a_row_drops_the_same_wherever_it_is_packed(tiny: Path, targets: str, dora: bool) -> None:
    """In one batch, in many, one a row, recomputed, and dealt to two processes."""
    torch.manual_seed(0)
    config = TrainConfig(model=str(tiny), bits=32, lora_dropout=0.4, target_modules=targets, dora=dora)
    base = load_base(str(tiny), bits=32, device=torch.device("cpu"))
    loaded = LoadedModel(base, attach_adapter(base, config))
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    rows, wide = numbered(ROWS), PackPlan(128, 8, 512)
    whole = losses_and_gradients(loaded, rows, wide, ForwardOptions())
    first, second = (losses_and_gradients(loaded, part, wide, ForwardOptions()) for part in (rows[::2], rows[1::2]))
    ways = {
        "micro-batches": losses_and_gradients(loaded, rows, PackPlan(32, 8, 32), ForwardOptions()),
        "one a row": losses_and_gradients(loaded, rows, PackPlan(separate=True), ForwardOptions()),
        "recomputed": losses_and_gradients(loaded, rows, wide, ForwardOptions(recompute=True)),
        "dealt": {name: first[name] + second[name] for name in whole},
    }
    for way, found in ways.items():
        apart = max(float((found[n] - whole[n]).abs().max() / whole[n].abs().max()) for n in whole)
        print(f"{way}: {apart:.1e} apart")
        assert apart < 1e-5, way
    other = losses_and_gradients(loaded, numbered(ROWS[::-1]), wide, ForwardOptions())
    assert abs(float(other["loss"] - whole["loss"])) > 1e-3  # other numbers, other draws


def test_the_generator_is_philox() -> None:
    """Known answer of the authors (Random123, philox4x32-7 of zeros)."""
    words = philox(0, torch.zeros(1, dtype=torch.int64))
    assert [int(word) for word in words] == [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]


def test_the_share_is_right_and_nothing_follows_another() -> None:
    numbers, width, limit = torch.arange(64, dtype=torch.int32), 320, round(0.3 * 65536)
    first = dropout_keep(SEED, 2, numbers, width, limit).float()
    others = {
        "row": first.roll(1, 0),
        "column": first.roll(1, 1),
        "block": first.roll(8, 1),
        "linear": dropout_keep(SEED, 3, numbers, width, limit).float(),
        "step": dropout_keep(SEED + 1, 2, numbers, width, limit).float(),
    }
    sigma = (1 / first.numel()) ** 0.5
    assert abs(float(first.mean()) - 0.7) < 4 * sigma * (0.3 * 0.7) ** 0.5
    for name, other in others.items():
        assert abs(float(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1])) < 4 * sigma, name


def test_pieces_of_a_large_input_are_one_input() -> None:
    numbers = torch.arange(5 * AT_ONCE // 4)[:: AT_ONCE // 16]
    at_once = dropout_keep(SEED, 1, numbers, 4096, 20000)
    alone = torch.cat([dropout_keep(SEED, 1, number[None], 4096, 20000) for number in numbers])
    assert torch.equal(at_once, alone)
    odd = dropout_keep(SEED, 1, numbers, 13, 20000)  # a width that is no multiple of 8
    assert odd.shape == (len(numbers), 13) and 0.5 < float(odd.float().mean()) < 0.9


def test_without_numbers_it_is_pytorchs() -> None:
    dropout, x = RowDropout(0.5, 3), torch.ones(2, 8, 16)
    torch.manual_seed(1)
    wanted = torch.nn.functional.dropout(x, 0.5)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), wanted)
    (batch,) = pack(ROWS[:1], PackPlan(8, 8, 8))
    with rows_drawn(batch):
        drawn = dropout(torch.ones(1, 8, 16))
        assert torch.equal(drawn, dropout(torch.ones(1, 8, 16))) and set(drawn.unique().tolist()) == {0.0, 2.0}
        assert not torch.equal(dropout(x), dropout(x))  # some other input
        assert torch.equal(dropout.eval()(x), x)


def test_another_thread_that_loads_a_model_changes_no_draw() -> None:
    """Transformers sets torch's default dtype, for the whole process, while it loads."""
    (batch,) = pack(numbered(ROWS), PackPlan(256))
    x, dropout = torch.ones(*batch.tokens_BT.shape, 16), RowDropout(0.05, 0)
    with rows_drawn(batch):
        wanted = dropout(x)
        torch.set_default_dtype(torch.bfloat16)
        try:
            assert torch.equal(dropout(x), wanted) and float(wanted.max()) == pytest.approx(1 / 0.95, rel=1e-4)
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("seed", [0, 77, 2**62 - 1])
def test_a_cpus_draws_are_the_words_of_philox(seed: int) -> None:
    """In the order in which the kernels have them; padding has the number -1."""
    numbers, blocks = torch.tensor([-1, 0, 5, 2**31 - 1], dtype=torch.int32), 3
    counter = (numbers[:, None].long() * blocks + torch.arange(blocks)) & WORD
    w0, w1, w2, w3 = philox(seed + 4 * STREAM, counter)
    halves = [half for word in (w0, w2, w1, w3) for half in (word & 0xFFFF, word >> 16)]
    wanted = torch.stack(halves, -1).flatten(1) >= 30000
    assert torch.equal(dropout_keep(seed, 4, numbers, 24, 30000), wanted)
