"""The fast decoder against its reference, by the texts it writes. Without a CUDA device Triton interprets its kernels
(`TRITON_INTERPRET=1 pytest tests/fast/decoding`)."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from florilegium import fast
from florilegium.config import SamplingSettings, make_config
from florilegium.errors import UsageError
from florilegium.fast.decoding.decoder import Decoder
from florilegium.fast.int8_head import int8_rows
from florilegium.generation import Completion, ContinuousBatcher, PackedDecoder, Request, collect, write_batch
from florilegium.generation.decoder_room import slot_bytes
from florilegium.model import LoadedModel, attach_adapter, load_base
from florilegium.model.families import head_weight
from florilegium.model.families.bloom import bloom_model
from florilegium.model.shared_base import shared
from tests.fast.decoding.interpreted import CUDA, DEVICE, EOS, error, on_a_card, runs_kernels
from tests.tiny import save_tiny

pytestmark = runs_kernels
GREEDY = SamplingSettings(max_new_tokens=24, temperature=0.0)


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
    return collect(all_steps(writer), len(asked))


def all_steps(writer: ContinuousBatcher) -> Any:
    while writer.busy:
        yield from writer.step()


def with_adapter(base: Any, seed: int, **values: Any) -> Any:
    """An adapter of its own over the base's weights."""
    own = shared(base)
    model = attach_adapter(own, make_config({"bits": base.bits, **values}))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.2)
    fast.install_kernels(model.eval(), ("quantized-linear",) if base.bits < 16 else ())
    return model


def by_reference(base: Any, model: Any, asked: Request) -> Completion:
    loaded = LoadedModel(base, model)
    with loaded.adapter_off() if asked.adapter is None else contextlib.nullcontext():
        return collect(write_batch(PackedDecoder(loaded), [asked], EOS), 1)[0]


@pytest.mark.skipif(CUDA, reason="the tests below say more")
@pytest.mark.parametrize("targets", ["auto", "all-linear"])
def test_the_whole_decoder_interpreted(tmp_path: Path, targets: str) -> None:
    """Prompts longer than a step, more texts than slots, LoRA enabled for some, one text cancelled: the
    reference's tokens. Beside an adapter on all linears one of another rank on a few, added while there is one place."""
    base = load_base(str(save_tiny(tmp_path / "m", heads=2, head_dim=32)), bits=8, device=DEVICE, compute="float32")
    models = [with_adapter(base, 1, rank=24, target_modules=targets)]
    if targets == "all-linear":
        models.append(with_adapter(base, 2, rank=40))
    settings = SamplingSettings(max_new_tokens=3, temperature=0.0)
    rows = [[7, 9, 11], [12, 40, 7, 99, 3, 56, 21, 8, 77], [8], [30, 40]]
    asked = [Request(row, i, settings, adapter=None if i == 2 else i % len(models)) for i, row in enumerate(rows)]
    wanted = [by_reference(base, models[request.adapter or 0], request) for request in asked]
    decoder = Decoder(
        bloom_model(models[0]),
        head_weight(models[0]).float(),
        slots=2,
        capacity=64,
        eos=EOS,
        max_rows=4,
        cuda_graphs=False,
    )
    writer = ContinuousBatcher(decoder)
    assert [decoder.add_adapter(bloom_model(model)) for model in models[1:]] == list(range(1, len(models)))
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


@pytest.mark.skipif(CUDA, reason="the test below runs it there")
def test_a_head_in_int8_is_its_rounded_numbers(tmp_path: Path) -> None:
    """A copy that the decoder makes: the texts are those of a model that has these numbers in float32."""
    base = load_base(str(save_tiny(tmp_path / "m", heads=2, head_dim=32)), bits=8, device=DEVICE, compute="float32")
    model = with_adapter(base, 1, rank=8)
    asked = [Request([7, 9, 11], 0, SamplingSettings(max_new_tokens=6, temperature=0.0))]
    head = torch.randn_like(head_weight(model).float())  # another than the embedding, so that ties are none
    codes, scale = int8_rows(head)
    texts, scores, bits = [], [], []
    for given, int8 in ((head, True), (codes.float() * scale[:, None], False), (head, False)):
        decoder = Decoder(
            bloom_model(model), given, slots=1, capacity=64, eos=EOS, max_rows=4, int8_head=int8, cuda_graphs=False
        )
        writer = ContinuousBatcher(decoder)
        writer.add(asked[0])
        texts.append(collect(all_steps(writer), 1)[0].token_ids)
        scores.append(decoder.scores.clone())
        bits.append(decoder.head.bits)
    assert bits == [8, 16, 16] and texts[0] == texts[1] == texts[2]  # so the last step's scores are of one text
    assert error(scores[0], scores[1]) < 1e-5 < 1e-3 < error(scores[0], scores[2])


@on_a_card
def test_a_head_in_int8_writes_the_same_in_every_batch(tmp_path: Path) -> None:
    base, model = tuned(tmp_path, 8, 32)
    asked = requests(12, SamplingSettings(max_new_tokens=12, temperature=0.7))
    alone = [by_slots(base, model, [request], 1, int8_head=True)[0] for request in asked]
    assert by_slots(base, model, asked, 8, int8_head=True) == alone


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
    worn, bare = requests(10, GREEDY), requests(10, GREEDY, adapter=None)
    both = by_slots(base, model, [*worn, *bare], 32)
    assert both[:10] == by_slots(base, model, worn, 4)
    with model.disable_adapter():
        assert both[10:] == by_slots(base, model, worn, 4)
    assert both[:10] != both[10:]


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["auto", "all-linear"])
def test_rows_of_many_adapters_are_those_of_each_alone(tmp_path: Path, targets: str) -> None:
    """To the token what a decoder of that adapter alone writes, whose places and kernels are others."""
    base = load_base(
        str(save_tiny(tmp_path / "m", heads=2, head_dim=32)),
        bits=8,
        device=DEVICE,
        **({} if CUDA else {"compute": "float32"}),
    )
    number, length = (12, 24) if CUDA else (3, 2)
    models = [with_adapter(base, i, rank=(4, 24, 16)[i % 3], target_modules=targets) for i in range(number)]
    settings = SamplingSettings(max_new_tokens=length, temperature=0.9, top_p=0.95, seed=3)
    asked = requests(2 * number + 2, settings if CUDA else replace(settings, top_p=1.0))
    asked = [
        replace(request, adapter=None if i % (number + 1) == number else i % (number + 1))
        for i, request in enumerate(asked)
    ]
    asked = asked if CUDA else [replace(request, token_ids=request.token_ids[:3]) for request in asked[: number + 1]]
    head, sizes = head_weight(base.model).detach(), {"capacity": 128, "eos": EOS, "cuda_graphs": CUDA}
    head = head if CUDA else head.float()
    decoder = Decoder(bloom_model(shared(base).model), head, slots=len(asked), places=2, **sizes)
    places = [decoder.add_adapter(bloom_model(model)) for model in models]
    decoder.remove_adapter(places[1])
    places[1] = decoder.add_adapter(bloom_model(models[1]))
    writer, alone = ContinuousBatcher(decoder), []
    for request in asked:
        writer.add(request if request.adapter is None else replace(request, adapter=places[request.adapter]))
        own = models[request.adapter or 0]
        single = ContinuousBatcher(Decoder(bloom_model(own), head, slots=1, max_rows=16, **sizes))
        single.add(request if request.adapter is None else replace(request, adapter=0))
        alone.append(collect(all_steps(single), len(asked))[0])
    assert collect(all_steps(writer), len(asked)) == alone
    assert len({tuple(one.token_ids) for one in alone}) > number


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


def test_a_slot_takes_what_the_engine_reckons_with(tmp_path: Path) -> None:
    """`decoder_room.py` sizes the slots before the decoder is made."""
    base, model = tuned(tmp_path, 8, 32)
    held = []
    for slots in (2, 4):
        made = Decoder(bloom_model(model), head_weight(model).detach(), slots=slots, capacity=256, eos=EOS, max_rows=16)
        parts = [made.cache, made.scores, *(getattr(made.state, field.name) for field in fields(made.state))]
        held.append(sum(part.numel() * part.element_size() for part in parts))
    each, reckoned = (held[1] - held[0]) / 2, slot_bytes(LoadedModel(base, model), 256)
    assert reckoned <= each < 1.01 * reckoned
