"""The fast decoder's kernels against float64, and the decoder against its reference. Without a CUDA device Triton
interprets the kernels (`TRITON_INTERPRET=1 pytest tests/fast/decoding`; with `-m slow` minutes of it)."""

from __future__ import annotations

import copy
import itertools
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from florilegium import fast
from florilegium.config import SamplingSettings, make_config
from florilegium.errors import UsageError
from florilegium.fast.decoding import attention_kernel, block_kernel, matmul_kernel, sampling, sampling_kernel
from florilegium.fast.decoding.block_kernel import LoraInput
from florilegium.fast.decoding.decoder import Decoder
from florilegium.fast.decoding.matmul_kernel import LoraOperands
from florilegium.fast.decoding.weights import stored_weight
from florilegium.fast.unpack_kernel import BYTE_ORDER, NATURAL_ORDER, PAIR_ORDER, in_stored_order
from florilegium.generation import Completion, ContinuousBatcher, PackedDecoder, Request, collect, write_batch
from florilegium.generation.sampling import filtered_weights
from florilegium.model import LoadedModel, attach_adapter, load_base
from florilegium.model.families import head_weight
from florilegium.model.families.bloom import bloom_model
from florilegium.reference import alibi_slopes
from tests.tiny import save_tiny

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
# Triton's interpreter multiplies bfloat16 wrongly, so on the CPU the same code runs, and is held to more, in float32.
DTYPE, LAST_BIT = (torch.bfloat16, 4e-3) if CUDA else (torch.float32, 2e-6)
EOS = 2
GREEDY = SamplingSettings(max_new_tokens=24, temperature=0.0)
on_a_card = pytest.mark.skipif(not CUDA, reason="minutes in the interpreter")
pytestmark = pytest.mark.skipif(
    not CUDA and "TRITON_INTERPRET" not in os.environ, reason="no CUDA device, and not interpreted"
)


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.double() - exact.double()).norm() / exact.double().norm())


def linear(form: int, N: int, K: int) -> tuple[Any, torch.Tensor]:
    """A stored weight and the numbers that it stands for, float64 [N, K]."""
    import bitsandbytes as bnb

    torch.manual_seed(form)
    dense = torch.nn.Linear(K, N, device=DEVICE, dtype=torch.bfloat16).requires_grad_(False)
    bias = torch.randn(N, device=DEVICE).bfloat16()
    if form == 16:
        dense.bias.data.copy_(bias)
        return stored_weight(dense), dense.weight.double()
    if form == 8:
        module = bnb.nn.Linear8bitLt(K, N, has_fp16_weights=False)
        module.weight = bnb.nn.Int8Params(
            dense.weight.data.half().cpu(), requires_grad=False, has_fp16_weights=False
        ).to(DEVICE)
        exact = module.weight.CB.double() * module.weight.SCB.double()[:, None] / 127
    else:
        module = bnb.nn.Linear4bit(K, N, quant_type="nf4", compress_statistics=form == 5, compute_dtype=DTYPE)
        module.weight = bnb.nn.Params4bit(
            dense.weight.data.float(),
            requires_grad=False,
            quant_type="nf4",
            compress_statistics=form == 5,
            blocksize=64,
        ).to(DEVICE)
        exact = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state).double()
    module.bias = torch.nn.Parameter(bias, requires_grad=False)
    return stored_weight(module), exact


def in_mma_order(x: torch.Tensor, form: int) -> torch.Tensor:
    """As a kernel that makes rows for that form writes them."""
    if form == 16:
        return x
    column = torch.arange(x.shape[1], device=x.device)
    j, s, p, h = column // 16 % 4, column // 4 % 4, column // 2 % 2, column % 2
    if form != 8:
        p, h = h, p
    out = torch.empty_like(x)
    out[:, column // 64 * 64 + 16 * s + 8 * h + 2 * j + p] = x
    return out


@pytest.mark.parametrize("form", [8, 16, 4, 5])
@pytest.mark.parametrize(("M", "N", "K", "split"), [(3, 200, 192, 1), (40, 128, 512, 4)])
def test_matmul(form: int, M: int, N: int, K: int, split: int) -> None:
    weight, exact_NK = linear(form, N, K)
    assert weight.bits == (4 if form == 5 else form)
    x = torch.zeros(matmul_kernel.padded(M)[1], K, dtype=DTYPE, device=DEVICE)
    x[:M] = torch.randn(M, K, device=DEVICE).to(DTYPE)
    raw = torch.full((split, M, N), float("nan"), device=DEVICE)
    matmul_kernel.stored_matmul(in_mma_order(x, form), weight, raw, M, matmul_kernel.PARTIAL, split=split)
    exact = x[:M].double() @ exact_NK.T
    assert error(raw.sum(0) * weight.scale_N, exact) < LAST_BIT
    x_at, b = (torch.randn(n, 32, device=DEVICE).to(DTYPE) for n in (len(x), N))
    adapter = LoraOperands(b, x_at)
    matmul_kernel.stored_matmul(in_mma_order(x, form), weight, raw, M, matmul_kernel.PARTIAL, split=split, lora=adapter)
    more = x_at[:M].double() @ b.double().T
    assert error(raw.sum(0) * weight.scale_N, exact + more * weight.scale_N) < LAST_BIT
    if N % 64 == 0:  # as every product that another product follows
        active = torch.full((M, N), float("nan"), dtype=DTYPE, device=DEVICE)
        matmul_kernel.stored_matmul(in_mma_order(x, form), weight, active, M, matmul_kernel.GELU)
        wanted = torch.nn.functional.gelu(exact + weight.bias_N.double(), approximate="tanh")
        assert error(active, in_mma_order(wanted, form)) < LAST_BIT
        matmul_kernel.stored_matmul(in_mma_order(x, form), weight, active, M, matmul_kernel.GELU, lora=adapter)
        wanted = torch.nn.functional.gelu(exact + weight.bias_N.double() + more, approximate="tanh")
        assert error(active, in_mma_order(wanted, form)) < LAST_BIT


@pytest.mark.parametrize("form", [8, 16, 4])
def test_the_adapters_product_of_an_input_that_no_norm_makes(form: int) -> None:
    """Columns in the order of the weight; rows of slots without the adapter, and of no slot."""
    M, K, R = 5, 4160, 16
    x, a = torch.randn(M, K, device=DEVICE).to(DTYPE), torch.randn(R, K, device=DEVICE).to(DTYPE)
    order = {4: PAIR_ORDER, 8: BYTE_ORDER, 16: NATURAL_ORDER}[form]
    assert torch.equal(in_stored_order(x, order), in_mma_order(x, form))
    slot = torch.tensor([1, 0, 2, -1, 1], dtype=torch.int32, device=DEVICE)
    enabled, x_at = torch.tensor([1.0, 1.0, 0.0], device=DEVICE), torch.full((M, R), float("nan"), device=DEVICE)
    lora = LoraInput(in_stored_order(a, order), enabled, slot, x_at)
    block_kernel.down_projection(in_stored_order(x, order), lora, M)
    wanted = x.double() @ a.double().T
    wanted[2] = 0
    assert error(x_at, wanted) < 1e-5 and (x_at[2] == 0).all()


@on_a_card
@pytest.mark.gpu
@pytest.mark.parametrize("form", [8, 16, 4, 5])
@pytest.mark.parametrize("split", [1, 2])
def test_a_row_is_the_same_whatever_the_number_of_rows(form: int, split: int) -> None:
    """To the bit: M chooses the tile, and no tile may sum in another order."""
    weight, _ = linear(form, 320, 1024)
    x = torch.randn(1024, 1024, device=DEVICE).to(DTYPE)
    all_rows: list[torch.Tensor] = []
    for M in (1, 16, 32, 64, 128, 256, 384, 1024):
        out = torch.full((split, M, 320), float("nan"), device=DEVICE)
        matmul_kernel.stored_matmul(x, weight, out, M, matmul_kernel.PARTIAL, split=split)
        all_rows.append(out)
    for fewer, more in itertools.pairwise(all_rows):
        assert torch.equal(fewer, more[:, : fewer.shape[1]]), more.shape


def test_every_int8_is_exact() -> None:
    weight, _ = linear(8, 64, 64)
    codes = torch.randint(-128, 128, (64, 64), dtype=torch.int8, device=DEVICE)
    codes.view(-1)[:256] = torch.arange(-128, 128, dtype=torch.int8, device=DEVICE)
    x = torch.eye(64, dtype=DTYPE, device=DEVICE)
    out = torch.empty(1, 64, 64, device=DEVICE)
    weight = replace(weight, stored=codes.view(torch.int32))
    matmul_kernel.stored_matmul(in_mma_order(x, 8), weight, out, 64, matmul_kernel.PARTIAL)
    assert torch.equal(out[0], codes.T.float())


@pytest.mark.parametrize("head_dim", [64, 80])
def test_attention_over_the_cache(head_dim: int) -> None:
    torch.manual_seed(0)
    # Texts that write on, one that has ended, and forty rows of a prompt that is read from place 20 on.
    H, S, positions = 3, 128, [0, 70, -1, 127, *range(20, 60)]
    M = len(positions)
    query = torch.randn(M, H * head_dim, device=DEVICE).to(DTYPE)
    keys, values = (torch.randn(5, H, S, head_dim, device=DEVICE).to(DTYPE) for _ in range(2))
    slots, slopes = [1, 0, 2, 4, *[3] * 40], alibi_slopes(H, DEVICE)
    out = torch.full_like(query, 7.0)
    as_int = {"dtype": torch.int32, "device": DEVICE}
    slot, position = torch.tensor(slots, **as_int), torch.tensor(positions, **as_int)
    attention_kernel.cached_attention(query, keys, values, slot, position, slopes, out, M, 16)
    for m in range(1, M, 7):
        alone = torch.full_like(query[:1], 7.0)
        attention_kernel.cached_attention(
            query[m : m + 1], keys, values, slot[m : m + 1], position[m : m + 1], slopes, alone, 1, 16
        )
        # NumPy, which interprets on the CPU, sums a row by its place in the tile.
        assert torch.equal(alone[0], out[m]) if CUDA else error(alone[0], out[m]) < 1e-6, m
    for m, (s, p) in enumerate(zip(slots, positions, strict=True)):
        if p < 0:
            assert (out[m] == 7).all()
            continue
        q = query[m].view(H, 1, head_dim).double()
        distance = torch.arange(p + 1, device=DEVICE) - p
        score = (q * keys[s, :, : p + 1].double()).sum(-1) / head_dim**0.5 + slopes[:, None].double() * distance
        exact = (score.softmax(-1)[..., None] * values[s, :, : p + 1].double()).sum(1)
        assert error(out[m].view(H, head_dim), exact) < LAST_BIT


def sampler(
    scores: torch.Tensor, settings: SamplingSettings | list[SamplingSettings], chance: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    """The next token of each row of `scores` [Q, V], by the kernels."""
    Q, V = scores.shape
    each = settings if isinstance(settings, list) else [settings] * Q
    ints = {
        name: torch.zeros(Q, dtype=torch.int32, device=DEVICE)
        for name in ("next_token", "length", "written", "limit", "done")
    }
    params = torch.tensor([[s.temperature, s.top_p, float(s.top_k), s.repetition_penalty] for s in each], device=DEVICE)
    uniforms = torch.zeros(Q, 2, device=DEVICE)
    uniforms[:, 1] = chance
    state = SimpleNamespace(**ints, sampling_params=params, uniforms=uniforms, seen=seen.to(torch.uint8))
    out, slot = torch.zeros(Q, dtype=torch.int32, device=DEVICE), torch.arange(Q, dtype=torch.int32, device=DEVICE)
    needs = sampling.Needs(
        any(s.top_k for s in each), any(s.top_p < 1 for s in each), any(s.repetition_penalty != 1 for s in each)
    )
    sampling.sample(scores, slot, slot, state, sampling.Workspace.make(Q, DEVICE), out, EOS, needs)
    return out.long()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(temperature=0.7, top_p=0.9),
        SamplingSettings(temperature=1.3, top_p=1.0),
        SamplingSettings(temperature=0.8, top_p=0.6, top_k=5, repetition_penalty=1.5),
        SamplingSettings(temperature=1.0, top_p=1.0, top_k=7),
        SamplingSettings(temperature=0.0, repetition_penalty=2.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("sharpness", [0.1, 3.0])
def test_tokens_are_sampled_as_the_reference_samples_them(settings: SamplingSettings, sharpness: float) -> None:
    """The same scores and uniform numbers: the same tokens, but for numbers within rounding of a border; and every share is as
    it should be."""
    torch.manual_seed(1)
    Q, V = (4096, 5000) if CUDA else (6, 300)
    scores = (torch.randn(1, V, device=DEVICE) * sharpness).repeat(Q, 1)
    seen = (torch.rand(1, V, device=DEVICE) < 0.3).repeat(Q, 1)
    chance = (torch.arange(Q, device=DEVICE) + 0.5) / Q
    drawn = sampler(scores, settings, chance, seen)
    p = settings.repetition_penalty
    penalised = torch.where(seen, torch.where(scores > 0, scores / p, scores * p), scores)[:1]
    if settings.temperature == 0:
        assert (drawn == penalised.argmax(-1)).all()
        return
    wanted = filtered_weights(penalised, settings)[0].double()
    wanted /= wanted.sum()
    running = wanted.cumsum(0)
    expected = torch.searchsorted(running, chance.double(), right=True)
    assert (drawn == expected).float().mean() > 0.995 if CUDA else (drawn == expected).all()
    assert (wanted[drawn] > 0).all()
    seen_share = torch.bincount(drawn, minlength=V).double() / Q
    assert (seen_share.cumsum(0) - running).abs().max() < 2.5 / Q + 1e-4


@pytest.mark.slow
def test_a_token_does_not_depend_on_what_its_neighbours_ask_for() -> None:
    """A row that is not cut, alone and in a step that searches for others' thresholds."""
    torch.manual_seed(4)
    Q, V = (2048, 5000) if CUDA else (4, 300)
    scores = torch.randn(1, V, device=DEVICE) * 2
    # Each chance lies on the border of two tokens, where sums that are made in another order would choose the other
    # one.
    chance, none = (
        scores[0].double().softmax(0).cumsum(0)[:Q].float(),
        torch.zeros(Q, V, dtype=torch.bool, device=DEVICE),
    )
    scores = scores.repeat(Q, 1)
    free, cut = SamplingSettings(temperature=1.0, top_p=1.0), SamplingSettings(temperature=1.0, top_p=0.5, top_k=9)
    chance[::2] = torch.rand(len(chance[::2]), device=DEVICE)
    alone = sampler(scores, free, chance, none)
    mixed = sampler(scores.repeat(2, 1), [free] * Q + [cut] * Q, chance.repeat(2), none.repeat(2, 1))
    assert torch.equal(mixed[:Q], alone)
    assert torch.equal(mixed[Q:], sampler(scores, cut, chance, none))


@pytest.mark.slow
def test_scores_of_nan_or_infinity_are_said() -> None:
    scores = torch.randn(3, 300, device=DEVICE)
    scores[1, 17] = float("nan")
    scores[2, 5] = float("inf")
    none = torch.zeros_like(scores, dtype=torch.bool)
    drawn = sampler(scores, SamplingSettings(temperature=0.7), torch.full((3,), 0.5, device=DEVICE), none)
    assert drawn[0] >= 0 and drawn[1] == drawn[2] == sampling_kernel.BROKEN


def tuned(folder: Path, bits: int, head_dim: int, targets: str = "auto") -> tuple[Any, Any]:
    base = load_base(str(save_tiny(folder / "m", heads=4, head_dim=head_dim, noise=0.08)), bits=bits, device=DEVICE)
    model = attach_adapter(base, make_config({"rank": 4, "bits": bits, "target_modules": targets}))
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    fast.install_kernels(model, ("quantized-linear",) if bits < 16 else ())
    return base, model.eval()


def requests(number: int, settings: SamplingSettings, **more: Any) -> list[Request]:
    generator = torch.Generator().manual_seed(5)
    sizes = torch.randint(1, 60, (number,), generator=generator).tolist()
    return [
        Request(torch.randint(4, 400, (n,), generator=generator).tolist(), i, settings, **more)
        for i, n in enumerate(sizes)
    ]


def by_slots(base: Any, model: Any, asked: list[Request], slots: int, **sizes: Any) -> list[Completion]:
    head = head_weight(model).detach()
    writer = ContinuousBatcher(Decoder(bloom_model(model), head, slots=slots, capacity=128, eos=EOS, **sizes))
    for request in asked:
        writer.add(request)

    def all_steps() -> Any:
        while writer.busy:
            yield from writer.step()

    return collect(all_steps(), len(asked))


@pytest.mark.skipif(CUDA, reason="the tests below say more")
@pytest.mark.parametrize("targets", ["auto", "all-linear"])
def test_the_whole_decoder_interpreted(tmp_path: Path, targets: str) -> None:
    """Prompts longer than a step, more texts than slots, LoRA enabled for some, one text cancelled: the
    reference's tokens."""
    base = load_base(str(save_tiny(tmp_path / "m", heads=2, head_dim=32)), bits=8, device=DEVICE, compute="float32")
    model = attach_adapter(base, make_config({"rank": 24, "target_modules": targets}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.2)
    fast.install_kernels(model.eval(), ("quantized-linear",))
    settings = SamplingSettings(max_new_tokens=3, temperature=0.0)
    rows = [[7, 9, 11], [12, 40, 7, 99, 3, 56, 21, 8, 77], [8], [30, 40]]
    asked = [Request(row, i, settings, adapter=i != 2) for i, row in enumerate(rows)]
    wanted = [collect(write_batch(PackedDecoder(LoadedModel(base, model)), [request], EOS), 1)[0] for request in asked]
    with model.disable_adapter():
        wanted[2] = collect(write_batch(PackedDecoder(LoadedModel(base, model)), [asked[2]], EOS), 1)[0]
    decoder = Decoder(
        bloom_model(model), head_weight(model).float(), slots=2, capacity=64, eos=EOS, max_rows=4, cuda_graphs=False
    )
    writer = ContinuousBatcher(decoder)
    for too_much in (Request([], 0, settings), Request([5] * 62, 0, settings)):
        with pytest.raises(UsageError, match="exceeds the limit of 64 tokens"):
            writer.add(too_much)
    for request in asked:
        writer.add(request)
    written: list[Any] = []
    while writer.busy:
        written += writer.step()
        if any(token.request == 3 for token in written):
            writer.cancel(3)
    got = collect(written, 4)
    assert got[:3] == wanted[:3] and got[3].token_ids == wanted[3].token_ids[:1]


def gap_where_they_part(base: Any, model: Any, asked: Request, ours: Completion, theirs: Completion) -> float:
    """How far apart the scores in float32 are of the first two tokens that differ, in standard deviations of the row's
    scores."""
    a, b = ([*text.token_ids, *[EOS] * text.finished] for text in (ours, theirs))
    same = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    if base.bits == 16:
        model = copy.deepcopy(model).float()
    with torch.inference_mode():
        (scores,) = PackedDecoder(LoadedModel(replace(base, compute_dtype=torch.float32), model)).read(
            [[*asked.token_ids, *a[:same]]], 1
        )
    return round(float((scores[a[same]] - scores[b[same]]).abs() / scores.std()), 4)


@on_a_card
@pytest.mark.gpu
@pytest.mark.parametrize("targets", ["auto", "all-linear"])
@pytest.mark.parametrize(("bits", "head_dim"), [(8, 64), (8, 80), (4, 128), (16, 32)])
def test_decoder_equals_the_reference_and_itself_in_every_batch(
    tmp_path: Path, bits: int, head_dim: int, targets: str
) -> None:
    base, model = tuned(tmp_path, bits, head_dim, targets)
    plain = collect(write_batch(PackedDecoder(LoadedModel(base, model)), requests(40, GREEDY), EOS), 40)
    for settings in (
        GREEDY,
        SamplingSettings(max_new_tokens=24, temperature=0.9, top_p=0.95, repetition_penalty=1.2, seed=3),
    ):
        alone = by_slots(base, model, requests(40, settings), 1, max_rows=16)
        for slots, sizes in (
            (8, {"max_rows": 64}),
            (32, {"max_rows": 256}),
            (64, {"max_rows": 1024, "cuda_graphs": False}),
        ):
            assert by_slots(base, model, requests(40, settings), slots, **sizes) == alone
        if settings is GREEDY:
            pairs = [(asked, a, b) for asked, a, b in zip(requests(40, settings), alone, plain, strict=True) if a != b]
            gaps = [gap_where_they_part(base, model, *pair) for pair in pairs]
            print(
                f"{bits} bits: {40 - len(gaps)} of 40 greedy texts as the reference writes them in bfloat16; ties of {gaps}"
            )
            assert len(gaps) <= 10 and max(gaps, default=0.0) < 0.1


@on_a_card
@pytest.mark.gpu
@pytest.mark.parametrize("targets", ["auto", "all-linear"])
def test_base_and_adapter_write_in_one_batch(tmp_path: Path, targets: str) -> None:
    base, model = tuned(tmp_path, 8, 64, targets)
    worn, bare = requests(10, GREEDY), requests(10, GREEDY, adapter=False)
    both = by_slots(base, model, [*worn, *bare], 32)
    assert both[:10] == by_slots(base, model, worn, 4)
    with model.disable_adapter():
        assert both[10:] == by_slots(base, model, worn, 4)
    assert both[:10] != both[10:]


@on_a_card
@pytest.mark.gpu
def test_cancelled_texts_write_no_more_and_leave_the_others_alone(tmp_path: Path) -> None:
    base, model = tuned(tmp_path, 8, 64)
    asked = requests(6, GREEDY)
    wanted = by_slots(base, model, asked, 2)
    decoder = Decoder(bloom_model(model), head_weight(model).detach(), slots=2, capacity=128, eos=EOS)
    writer = ContinuousBatcher(decoder)
    for request in asked:
        writer.add(request)
    written: dict[int, list[int]] = {i: [] for i in range(6)}
    while writer.busy:
        for token in writer.step():
            assert token.request not in (1, 4) or len(written[token.request]) < 3
            if token.token_id is not None:
                written[token.request].append(token.token_id)
        if len(written[1]) == 3:
            writer.cancel(1)
        writer.cancel(4)
    assert written[4] == [] and len(written[1]) == 3
    assert all(written[i] == wanted[i].token_ids for i in (0, 2, 3, 5))
