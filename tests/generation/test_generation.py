"""The decoder against stock `generate` in float32, batches against singles, and the draws against the probabilities
they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from florilegium.config import SamplingSettings
from florilegium.data import Template
from florilegium.errors import ResourceError, UsageError
from florilegium.generation import (
    Completion,
    PackedDecoder,
    Request,
    StockDecoder,
    collect,
    generate_texts,
    stream_text,
    write_batch,
)
from florilegium.generation.generate import Generated, write
from florilegium.generation.sampling import filtered_weights, next_tokens, uniform_draws
from florilegium.model import Base, LoadedModel, load_base
from tests.tiny import save_tiny

GREEDY = SamplingSettings(max_new_tokens=24, temperature=0.0, repetition_penalty=1.0)
EOS = 2


@pytest.fixture(scope="module", params=[(4, 32), (5, 32), (4, 8)], ids=["4 heads", "5 heads", "int8"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    heads, bits = request.param
    folder = save_tiny(tmp_path_factory.mktemp("bloom"), heads=heads)
    return load_base(str(folder), bits=bits, device=torch.device("cpu"), compute="float32")


def prompts(number: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    sizes = torch.randint(1, 40, (number,), generator=generator).tolist()
    return [torch.randint(4, 400, (size,), generator=generator).tolist() for size in sizes]


def complete(decoder: Any, rows: list[list[int]], settings: SamplingSettings, first: int = 0) -> list[Completion]:
    return collect(
        write_batch(decoder, [Request(row, first + i, settings) for i, row in enumerate(rows)], EOS), len(rows)
    )


def stock_greedy(model: torch.nn.Module, prompt: list[int]) -> list[int]:
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=24, do_sample=False,
        pad_token_id=3, eos_token_id=EOS,
    )[0, len(prompt) :].tolist()  # fmt: skip
    return out[:-1] if out and out[-1] == EOS else out


def test_greedy_equals_stock_generate_at_every_batch_size(base: Base) -> None:
    if base.bits == 8:
        pytest.skip("stock int8 rounds its activations: another function")
    wanted = [stock_greedy(base.model, p) for p in prompts(40)]
    for size in (1, 7, 40):
        got = []
        for start in range(0, 40, size):
            part = prompts(40)[start : start + size]
            got += complete(PackedDecoder(LoadedModel(base, base.model)), part, GREEDY)
        assert [c.token_ids for c in got] == wanted
        assert all(c.finished == (len(c.token_ids) < 24) for c in got)


@pytest.mark.parametrize("decoder", [PackedDecoder, StockDecoder])
def test_a_batch_equals_its_rows_alone(base: Base, decoder: type) -> None:
    if base.bits == 8 and decoder is StockDecoder:
        pytest.skip("stock int8 on the CPU is for training only")
    import florilegium.fast as fast

    fast.install_kernels(base.model, ("quantized-linear",) if base.bits == 8 else ())
    for settings in (GREEDY, SamplingSettings(max_new_tokens=24, seed=3)):
        together = complete(decoder(LoadedModel(base, base.model)), prompts(12), settings)
        alone = [
            complete(decoder(LoadedModel(base, base.model)), [p], settings, i)[0] for i, p in enumerate(prompts(12))
        ]
        assert together == alone


@pytest.mark.parametrize("room", [1, 3])
def test_where_memory_runs_out_fewer_rows_are_written_at_once(
    base: Base, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """A batch of more than `room` rows fails at its third token: the same texts come, each token once."""
    requests = [Request(row, i, GREEDY) for i, row in enumerate(prompts(7))]
    loaded = LoadedModel(base, base.model)
    whole = collect(write(loaded, requests), 7)
    stock, failed = PackedDecoder.write, []

    def little_memory(decoder: PackedDecoder, tokens_B: torch.Tensor) -> torch.Tensor:
        if len(tokens_B) > room and (steps := failed.append(len(tokens_B)) or len(failed)) % 2 == 0:
            raise RuntimeError(f"DefaultCPUAllocator: can't allocate memory: try {steps}")
        return stock(decoder, tokens_B)

    monkeypatch.setattr(PackedDecoder, "write", little_memory)
    assert collect(write(loaded, requests), 7) == whole and max(failed) > room
    monkeypatch.setattr(PackedDecoder, "write", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ResourceError, match="does not fit in memory"):
        list(write(loaded, requests))


def test_closing_the_iterator_stops_at_once(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = PackedDecoder(LoadedModel(base, base.model))
    calls = []
    plain = decoder.write
    monkeypatch.setattr(decoder, "write", lambda tokens: calls.append(1) or plain(tokens))
    tokens = write_batch(decoder, [Request([5], 0, GREEDY)], EOS)
    next(tokens)
    next(tokens)
    tokens.close()
    assert len(calls) == 1


def test_dequantized_once_changes_nothing_and_leaves_nothing(base: Base) -> None:
    import florilegium.fast as fast

    if base.bits != 8:
        pytest.skip("for quantised bases")
    fast.install_kernels(base.model, ("quantized-linear",))
    plain = complete(PackedDecoder(LoadedModel(base, base.model)), prompts(5), GREEDY)
    with fast.frozen_linear.dequantized_once(base.model, torch.float32):
        once = complete(PackedDecoder(LoadedModel(base, base.model)), prompts(5), GREEDY)
    assert plain == once
    assert not any("dequantized_NK" in m.__dict__ for m in base.model.modules())


def test_samples_follow_the_probabilities() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0, 3.0]])
    settings = SamplingSettings(temperature=0.7, top_p=0.97)
    wanted = (filtered_weights(scores, settings) / filtered_weights(scores, settings).sum())[0]
    number = 20_000
    chance = torch.rand(number, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = next_tokens(
        scores.expand(number, 5).clone(), torch.zeros(number, 5, dtype=torch.bool), chance, with_no_penalty(settings)
    )
    seen = torch.bincount(drawn, minlength=5) / number
    assert (seen - wanted).abs().max() < 0.015
    assert seen[wanted == 0].sum() == 0 and (wanted == 0).any()


def with_no_penalty(settings: SamplingSettings) -> SamplingSettings:
    return SamplingSettings(temperature=settings.temperature, top_p=settings.top_p, repetition_penalty=1.0)


def test_top_k_top_p_and_penalty_equal_transformers() -> None:
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    torch.manual_seed(0)
    scores, ids = torch.randn(6, 50) * 3, torch.randint(0, 50, (6, 9))
    settings = SamplingSettings(temperature=0.6, top_p=0.8, top_k=12, repetition_penalty=1.3)
    stock = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(1.3),
            TemperatureLogitsWarper(0.6),
            TopKLogitsWarper(12),
            TopPLogitsWarper(0.8),
        ]
    )
    wanted = torch.softmax(stock(ids, scores.clone()), -1)
    seen = torch.zeros(6, 50, dtype=torch.bool).scatter(1, ids, True)
    penalised = torch.where(seen, torch.where(scores > 0, scores / 1.3, scores * 1.3), scores)
    got = filtered_weights(penalised, settings)
    got /= got.sum(-1, keepdim=True)
    assert torch.allclose(got, wanted, atol=1e-6)


def test_chances_depend_on_seed_and_row_alone() -> None:
    a, b = SamplingSettings(max_new_tokens=10, seed=1), SamplingSettings(max_new_tokens=20, seed=1)
    assert torch.equal(uniform_draws(a, 3), uniform_draws(b, 3)[:11])
    assert not torch.equal(uniform_draws(a, 3), uniform_draws(a, 4))
    assert not torch.equal(uniform_draws(a, 3), uniform_draws(SamplingSettings(max_new_tokens=10, seed=2), 3))


def test_texts_keep_their_order_and_their_prompts(base: Base) -> None:
    texts = ["Be kind to the sea.", "Time", "A door left open ->:", ""]
    openings = {"Be": 3, "Time": 1}
    rows = generate_texts(
        LoadedModel(base, base.model),
        Template.from_text(),
        texts,
        SamplingSettings(max_new_tokens=5),
        first_words=openings,
    )
    for text, row in zip(texts[:3], rows, strict=False):
        assert row.text.startswith(text)
    assert rows[3].text.startswith(("Be", "Time"))
    with pytest.raises(UsageError, match="no prompt"):
        generate_texts(LoadedModel(base, base.model), Template.from_text(), [""], SamplingSettings())


def test_a_stream_is_the_text_in_pieces(base: Base) -> None:
    settings = SamplingSettings(max_new_tokens=24, temperature=1.5, top_p=1.0)
    (whole,) = generate_texts(LoadedModel(base, base.model), Template.from_text(), ["Time"], settings)
    pieces = list(stream_text(LoadedModel(base, base.model), "Time", settings))
    assert "".join(pieces) == whole.text and pieces[0] == "Time" and len(pieces) > 3
    assert not any(piece.endswith("\ufffd") for piece in pieces[:-1])


def test_closing_a_stream_leaves_the_model_as_it_was(base: Base) -> None:
    base.model.train()
    stream = stream_text(LoadedModel(base, base.model), "Time", GREEDY)
    next(stream)
    next(stream)
    assert not base.model.training
    stream.close()
    assert base.model.training
    base.model.eval()


@pytest.mark.parametrize("count", [72, pytest.param(200, marks=pytest.mark.slow)])
def test_greedy_texts_of_the_seedling_are_those_of_stock(count: int) -> None:
    """Prompts of mixed length, batches of 1 to 64, in float32: token for token."""
    base = load_base("seedling", bits=32, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(2)
    rows = [
        torch.randint(4, 5000, (int(n),), generator=generator).tolist()
        for n in torch.randint(1, 50, (count,), generator=generator)
    ]
    settings = SamplingSettings(max_new_tokens=8, temperature=0.0)
    longest = max(map(len, rows))
    ids, mask = torch.full((count, longest), 3), torch.zeros(count, longest, dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, longest - len(row) :], mask[b, longest - len(row) :] = torch.tensor(row), 1
    stock = base.model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=3)[
        :, longest:
    ].tolist()
    eos = base.tokenizer.eos_token_id
    wanted = [row[: row.index(eos)] if eos in row else row for row in stock]
    for size, number in ((1, 24), (7, 70), (64, count)):
        got = []
        for start in range(0, number, size):
            batch = [Request(row, i, settings) for i, row in enumerate(rows[start : min(start + size, number)])]
            got += collect(write_batch(PackedDecoder(LoadedModel(base, base.model)), batch, eos), len(batch))
        assert [c.token_ids for c in got] == wanted[:number]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_k": -1},
        {"max_new_tokens": 0},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_usage_errors(wrong: dict) -> None:
    with pytest.raises(UsageError, match="It takes a number"):
        SamplingSettings(**wrong)


def test_an_unfinished_text_says_so(tiny: Path) -> None:
    base = load_base(str(tiny), bits=32, device=torch.device("cpu"))
    (row,) = generate_texts(
        LoadedModel(base, base.model), Template.from_text(), ["Time"], SamplingSettings(max_new_tokens=1)
    )
    assert not row.finished and row.as_row(Template.from_text())["tags"] == []


@pytest.mark.parametrize("name", ["text", "finished", "novel", "base", "model", "columns"])
def test_a_column_called_like_a_key_of_the_row_is_not_lost(name: str) -> None:
    template = Template.from_text(f"{{{name}}} ->: {{tags}}")
    row = Generated("Time ->: hope", {name: "Time", "tags": ["hope"]}, True, False).as_row(template)
    assert row["columns"] == {name: "Time", "tags": ["hope"]}
    assert (row["text"], row["finished"], row["novel"]) == ("Time ->: hope", True, False)
    assert Generated("Time", None, False).as_row(template)["columns"] == {name: None, "tags": []}
    assert "columns" not in Generated("Time", None, False).as_row(Template.from_text())
