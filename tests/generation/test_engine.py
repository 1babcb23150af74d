"""The engine: whatever comes and goes beside a text, it stays what `write_batch` writes of it alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from florilegium.config import SamplingSettings, TrainConfig
from florilegium.errors import UsageError
from florilegium.generation import Completion, PackedDecoder, Request, StockDecoder, collect, write_batch
from florilegium.generation.engine import BatchEngine, Engine, ready
from florilegium.model import Base, LoadedModel, load_base
from florilegium.model.base_changes import Replaced
from florilegium.model.lora import attach_adapter
from florilegium.model.row_adapters import unsupported, without_adapter
from florilegium.model.shared_base import shared
from tests.tiny import make_tokenizer, save_tiny

GREEDY = SamplingSettings(max_new_tokens=24, temperature=0)
DRAWN = SamplingSettings(max_new_tokens=24, seed=3)


@pytest.fixture(scope="module", params=["bloom", "llama", "mistral", "lfm2"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """BLOOM packs; Llama is stock and joins; Mistral's window is a cache that cannot join, and so is
    the state of LFM2's convolutions."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "bloom":
        save_tiny(folder)
    else:
        make, config = {
            "llama": (LlamaForCausalLM, LlamaConfig),
            "mistral": (MistralForCausalLM, MistralConfig),
            "lfm2": (Lfm2ForCausalLM, Lfm2Config),
        }[request.param]
        torch.manual_seed(0)
        extra: dict[str, Any] = {"sliding_window": 512} if request.param == "mistral" else {}
        extra |= {"layer_types": ["conv", "full_attention"]} if request.param == "lfm2" else {}
        model = make(config(vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                            num_key_value_heads=2, bos_token_id=1, eos_token_id=2, initializer_range=0.3, **extra))  # fmt: skip
        model.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
    base = load_base(str(folder), bits=32, device=torch.device("cpu"), compute="float32")
    return LoadedModel(base, base.model)


def requests(number: int) -> list[Request]:
    generator = torch.Generator().manual_seed(5)
    made = []
    for i in range(number):
        size = int(torch.randint(1, 40, (1,), generator=generator))
        ids = torch.randint(4, 400, (size,), generator=generator).tolist()
        settings = [GREEDY, DRAWN, replace(DRAWN, top_k=20, seed=i), replace(GREEDY, repetition_penalty=1.3)][i % 4]
        made.append(Request(ids, i, replace(settings, max_new_tokens=4 + 5 * (i % 5))))
    return made


def alone(loaded: LoadedModel, request: Request) -> Completion:
    decoder = PackedDecoder(loaded) if loaded.base.packs else StockDecoder(loaded)
    return collect(write_batch(decoder, [request], 2), 1)[0]


def finish(engine: Engine, count: int) -> list[Completion]:
    written = []
    while engine.busy:
        written += engine.step()
    return collect(written, count)


def test_texts_that_come_and_go_are_those_written_alone(loaded: LoadedModel) -> None:
    """Fewer slots than texts, one more text every second step, each of other length, settings and end."""
    wanted = requests(20)
    engine, written, most = BatchEngine(loaded, slots=5, capacity=64), [], 0
    with ready(loaded):
        for i in range(1000):
            if i % 2 == 0 and i // 2 < len(wanted):
                assert engine.add(wanted[i // 2]) == i // 2
            written += engine.step()
            most = max(most, engine.running)
            if not engine.busy and i > 40:
                break
    assert collect(written, 20) == [alone(loaded, request) for request in wanted]
    assert most == 5 or most == 4
    assert sum(token.ended for token in written) == 20


def test_texts_of_one_prompt_read_it_once_and_are_those_written_alone(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more tokens than a step reads of different prompts, beside another, some with other settings and one cancelled."""
    long = (requests(8)[2].token_ids * 40)[:300]
    wanted = [replace(request, token_ids=long) for request in requests(6)] + requests(8)[6:]
    decoder = PackedDecoder if loaded.base.packs else StockDecoder
    read, seen = decoder.read, list[int]()

    def counted(self: Any, prompts: Any, room: int) -> torch.Tensor:
        seen.append(len(prompts))
        return read(self, prompts, room)

    with ready(loaded):
        apart = [alone(loaded, request) for request in wanted]
        monkeypatch.setattr(decoder, "read", counted)
        engine = BatchEngine(loaded, slots=8, capacity=700)
        numbers = [engine.add(request) for request in wanted]
        written = engine.step()
        assert engine.running + sum(token.ended for token in written) == 8 and seen == [3]
        engine.cancel(numbers[1])
        while engine.busy:
            written += engine.step()
    together = collect(written, 8)
    assert [together[i] for i in range(8) if i != 1] == [apart[i] for i in range(8) if i != 1]


def test_a_cancelled_text_frees_its_slot_in_the_next_step(loaded: LoadedModel) -> None:
    engine = BatchEngine(loaded, slots=1, capacity=64)
    for request in requests(3):
        engine.add(replace(request, settings=replace(DRAWN, max_new_tokens=20)))
    first = engine.step()
    assert [token.request for token in first] == [0]
    engine.cancel(0)
    engine.cancel(1)  # it waits still
    assert [token.request for token in engine.step()] == [2]
    engine.cancel(2)
    assert not engine.busy and engine.step() == []


def test_base_and_adapter_run_beside_each_other(tiny: Path) -> None:
    base = load_base(str(tiny), bits=32, device=torch.device("cpu"), compute="float32")
    plain = LoadedModel(base, base.model)
    asked = [replace(request, settings=GREEDY) for request in requests(4)]
    untuned = [alone(plain, request) for request in asked]
    adapted = attach_adapter(base, TrainConfig(lora_rank=4))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    loaded = LoadedModel(base, adapted)
    engine = BatchEngine(loaded, slots=8, capacity=64)
    with ready(loaded):
        tuned = [alone(loaded, request) for request in asked]
        for request in asked:
            engine.add(request)
            engine.add(replace(request, adapter=None))
        both = finish(engine, 8)
    assert both[0::2] == tuned and both[1::2] == untuned and tuned != untuned


def adapters_over(base: Base, *configs: TrainConfig) -> list[LoadedModel]:
    """An adapter each, of random numbers, on modules of its own over the base's weights."""
    made = []
    for seed, config in enumerate(configs):
        own = shared(base)
        model = attach_adapter(own, config)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator)
        made.append(LoadedModel(own, model.eval()))
    return made


def under_way(engine: BatchEngine) -> set[int | None]:
    """The adapters of texts that wait or are written."""
    writing = [text.request for batch in engine.batches for text in batch.texts if not text.ended]
    return {request.adapter for request in [*writing, *(request for _, request in engine.waiting)]}


def test_rows_of_several_adapters_are_those_of_each_alone(loaded: LoadedModel) -> None:
    """Of other ranks and on other linears, the base's between them; one leaves, and another comes while texts are under
    way."""
    targets = "all-linear", "auto", "auto", "all-linear"
    configs = [TrainConfig(lora_rank=3 + i, target_modules=name) for i, name in enumerate(targets)]
    tuned = adapters_over(loaded.base, *configs)
    assert [unsupported(one) for one in tuned] == [""] * 4
    own = without_adapter(tuned[0])
    engine, asked, whose = BatchEngine(own, slots=5, capacity=64), requests(18), [0, 1, 2, None] * 3 + [0, 2, None] * 2
    whose[-3:] = [3, 3, None]
    numbers: dict[int | None, int | None] = {None: None}
    written, most = [], 0
    with ready(own):
        numbers |= {i: engine.add_adapter(one) for i, one in enumerate(tuned[:3])}
        for i, (request, who) in enumerate(zip(asked, whose, strict=True)):
            if i == 15:  # none of 1 is left, others are
                while numbers[1] in under_way(engine):
                    written += engine.step()
                assert engine.running
                engine.remove_adapter(numbers.pop(1) or 0)
                numbers[3] = engine.add_adapter(tuned[3])
            engine.add(replace(request, adapter=numbers[who]))
            written += engine.step()
            most = max(most, *(len({text.request.adapter for text in batch.texts}) for batch in engine.batches))
        while engine.busy:
            written += engine.step()
        wanted = [alone(own if who is None else tuned[who], one) for one, who in zip(asked, whose, strict=True)]
    assert collect(written, len(asked)) == wanted
    # they were rows of one batch, where the family's caches can join
    assert most >= 3 or loaded.base.model.config.model_type in ("mistral", "lfm2")
    assert len({tuple(one.token_ids) for one in wanted}) > 12


def test_an_adapter_that_is_more_than_plain_lora_has_no_rows(tiny: Path) -> None:
    base = load_base(str(tiny), bits=32, device=torch.device("cpu"), compute="float32")
    (dora,) = adapters_over(base, TrainConfig(lora_rank=4, dora=True))
    assert "more than plain LoRA" in unsupported(dora)
    assert "its own" in unsupported(LoadedModel(base, base.model))
    (plain,) = adapters_over(base, TrainConfig(lora_rank=4))
    plain.base.replaced.append(Replaced(next(plain.model.parameters()), torch.zeros(1)))
    assert "changes the base" in unsupported(plain)


def test_a_text_that_cannot_fit_is_refused_with_both_numbers(loaded: LoadedModel) -> None:
    engine = BatchEngine(loaded, slots=1, capacity=30)
    with pytest.raises(UsageError, match=r"7 tokens.*24.*limit of 30"):
        engine.add(Request([5] * 7, 0, GREEDY))
    engine.add(Request([5] * 6, 0, GREEDY))


def test_scores_that_are_no_numbers_end_the_text(tiny: Path) -> None:
    base = load_base(str(tiny), bits=32, device=torch.device("cpu"), compute="float32")
    loaded = LoadedModel(base, base.model)
    with torch.no_grad():
        base.model.get_input_embeddings().weight[9] = float("nan")  # the head is tied: every score of token 9 as well
        engine = BatchEngine(loaded, slots=2, capacity=64)
        engine.add(Request([9, 5], 0, GREEDY))
        written = engine.step()
    assert [(token.broken, token.ended) for token in written] == [(True, True)]
    assert not engine.busy
