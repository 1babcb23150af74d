"""What a folder says is checked: bases that are not whole, indexes that lead elsewhere, code by configuration, numbers out
of range. Every member is refused in one line or loads as the good model that it still is; no pickle is opened."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import florilegium
from florilegium.config import TrainConfig
from florilegium.errors import ModelError
from florilegium.export.base_weights import BaseWeights
from florilegium.export.origin import origin_of
from florilegium.model import (
    AdapterFacts,
    Base,
    adapter_state,
    attach_adapter,
    load_adapter,
    load_base,
    read_facts,
    save_adapter,
    set_adapter_state,
)
from florilegium.model.bloom_loader import load_streamed
from florilegium.model.families.bloom import Bloom
from florilegium.model.identity import weights_digest
from florilegium.model.model_config import model_config
from florilegium.model.untrusted import read_json
from florilegium.model.weight_files import find_weights
from florilegium.storage.json_lines import read_lines
from florilegium.tokens.encode import text_ids
from tests.torture import hostile
from tests.torture.hostile import Change, copied
from tests.torture.hostile_kinds import ADAPTERS, BASES, IGNORED

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_pickle_and_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.load raises, and code of a folder would leave a mark where the test runs."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", never)
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "code-ran").exists()


def refused(members: dict[str, Change], source: Path, folder: Path, load: Callable[[Path, int], Any]) -> None:
    """Every member is refused, in one short line with what to do about it."""
    accepted, wrong = [], []
    for number, (what, change) in enumerate(members.items()):
        made = copied(source, folder / str(number), change)
        try:
            load(made, number)
            accepted.append(what)
        except ModelError as error:
            if not error.fix or not str(error).isprintable() or len(str(error)) > 900:
                wrong.append(f"{what}: {error}")
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {error}")
        shutil.rmtree(made)
    assert len(members) >= 20 and not accepted and not wrong, (accepted, wrong)


def adapters_refused(kind: str, base: Base, adapter: Path, folder: Path) -> dict[str, torch.Tensor]:
    """What the base held, and holds after each of them."""
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}

    def on_the_base(made: Path, number: int) -> None:
        try:
            load_adapter(base, made)
        finally:
            remove_lora(base)
            now = base.model.state_dict()
            assert now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in before)

    refused(ADAPTERS[kind], adapter, folder, on_the_base)
    return before


def as_base(folder: Path, number: int) -> None:
    """One of the four widths, in turn."""
    load_base(str(folder), bits=(32, 8, 16, 4)[number % 4], device=CPU)


def test_a_base_that_is_not_whole(tiny: Path, tmp_path: Path) -> None:
    refused(BASES["NOT_WHOLE"], tiny, tmp_path, as_base)


@pytest.mark.parametrize("kind", ["NOT_WHOLE", "LEADS_ELSEWHERE"])
def test_a_base_is_refused_by_the_readers_of_a_gpu_too(
    tiny: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU BLOOM's files are read by `tensor_reader.py`, and safetensors' own checks are never reached."""
    streamed = []

    def stream(self: Bloom, *given: Any) -> PreTrainedModel | None:
        streamed.append(load_streamed(*given))
        return streamed[-1]

    monkeypatch.setattr(Bloom, "load_quantized", stream)
    load_base(str(tiny), bits=8, device=CPU)
    assert streamed[-1] is not None
    refused(BASES[kind], tiny, tmp_path, lambda folder, n: load_base(str(folder), bits=8 - n % 2 * 4, device=CPU))


@pytest.mark.parametrize("kind", BASES)
def test_the_reader_of_an_export_tells_it_too(tiny: Path, tmp_path: Path, kind: str) -> None:
    """`BaseWeights` reads a base without loading it: what it does not refuse (tokenizers are not its to read), it reads,
    and no library's own error comes through."""

    def read(folder: Path, number: int) -> None:
        with BaseWeights(folder, "it"):
            raise ModelError("read", "it was read")

    refused(BASES[kind], tiny, tmp_path, read)


def test_the_licence_of_a_base_is_looked_up_whatever_its_numbers_are(tiny: Path, tmp_path: Path) -> None:
    """`export` asks where a base comes from before it reads the weights."""
    for number, change in enumerate(BASES["NUMBERS"].values()):
        folder = copied(tiny, tmp_path / str(number), change)
        with contextlib.suppress(ModelError):
            assert origin_of(str(folder), folder).licence == ""


def test_tensors_on_one_another_are_seen_before_a_library_reads_them(tiny: Path, tmp_path: Path) -> None:
    """On a GPU BLOOM's files are read by `tensor_reader.py`, which has no other look at them."""
    folder = copied(tiny, tmp_path / "model", BASES["NOT_WHOLE"]["tensors on one another"])
    with pytest.raises(ModelError, match="overlap"):
        find_weights(folder, "it")


@pytest.mark.parametrize(
    ("kind", "member", "said"),
    [
        ("WANTS_CODE", "a tokenizer's object", "sets 'tokenizer_object', which is a part of the program"),
        ("WANTS_CODE", "a tokenizer's method", "sets 'encode', which is a part of the program"),
        ("NOT_WHOLE", "a note that is a number", "its __metadata__ holds more than texts"),
        *[("OUT_OF_BOUNDS", f"a word as number {n}", f"'zzz' the number {n}") for n in (-1, 1 << 31, 1 << 40)],
    ],
)
def test_what_versions_of_libraries_take_or_die_of_is_refused_before_them(
    tiny: Path, tmp_path: Path, kind: str, member: str, said: str
) -> None:
    """Transformers 5.17 took the object and walked through all numbers below a word's, in gigabytes."""
    folder = copied(tiny, tmp_path / "model", BASES[kind][member])
    with pytest.raises(ModelError, match=re.escape(said)):
        load_base(str(folder), bits=8, device=CPU)


def test_an_index_that_leads_elsewhere(tiny: Path, tmp_path: Path) -> None:
    refused(BASES["LEADS_ELSEWHERE"], tiny, tmp_path, as_base)


def test_code_by_configuration(tiny: Path, tmp_path: Path) -> None:
    refused(BASES["WANTS_CODE"], tiny, tmp_path, as_base)
    good = load_base(str(tiny), bits=32, device=CPU)
    for number, (what, change) in enumerate(IGNORED.items()):
        base = load_base(str(copied(tiny, tmp_path / f"i{number}", change)), bits=32, device=CPU)
        same = all(torch.equal(a, b) for a, b in zip(base.model.parameters(), good.model.parameters(), strict=True))
        assert same and base.model.config._attn_implementation == good.model.config._attn_implementation, what
        assert not hasattr(base.model, "peft_config") and base.tokenizer_digest == good.tokenizer_digest, what


def test_a_tokenizer_with_several_chat_templates_is_saved(tiny: Path, tmp_path: Path) -> None:
    """Transformers writes all but one of them into a folder."""
    templates = [{"name": name, "template": "{{ messages }}"} for name in ("default", "tool_use")]
    folder = copied(tiny, tmp_path / "model", hostile.edit_json("tokenizer_config.json", chat_template=templates))
    base = load_base(str(folder), bits=32, device=CPU)
    config = TrainConfig(data="x", model=str(folder), output=None)
    save_adapter(attach_adapter(base, config), base, tmp_path / "adapter", AdapterFacts(), "")
    assert {"tokenizer.json", "chat_template.jinja"} <= {path.name for path in (tmp_path / "adapter").iterdir()}


def test_numbers_out_of_range(tiny: Path, tmp_path: Path) -> None:
    refused(BASES["NUMBERS"], tiny, tmp_path, as_base)


@pytest.mark.parametrize("kind", ["NOT_WHOLE", "WANTS_CODE", "NUMBERS"])
def test_a_configuration_alone_is_read_or_refused(tiny: Path, tmp_path: Path, kind: str) -> None:
    """As `export` and `estimate` read it, which load no model by it."""
    wrong = []
    for number, (what, change) in enumerate(BASES[kind].items()):
        folder = copied(tiny, tmp_path / str(number), change)
        try:
            model_config(read_json(folder / "config.json", "it"), "it")
        except ModelError:
            pass
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {error}")
        shutil.rmtree(folder)
    assert not wrong, wrong


@pytest.mark.parametrize("key", ["n_layer", "hidden_size", "vocab_size", "n_head"])
def test_sizes_that_no_tensor_shows_are_refused_before_an_outline_is_made(tiny: Path, tmp_path: Path, key: str) -> None:
    """Within the range of models, and far beyond this one's files."""
    folder = copied(tiny, tmp_path / "model", hostile.edit_json("config.json", **{key: 9_984}))
    with pytest.raises(ModelError, match=f"{key} is 9984, and its weights hold no such thing"):
        load_base(str(folder), bits=32, device=CPU)


def test_facts_from_before_there_were_formats_are_read(adapter: Path, tmp_path: Path) -> None:
    folder = copied(adapter, tmp_path / "adapter", hostile.edit_json("florilegium.json", note="another field"))
    facts = json.loads((folder / "florilegium.json").read_text())
    assert facts.pop("format") == 1
    (folder / "florilegium.json").write_text(json.dumps(facts))
    assert read_facts(folder).template == facts["template"]


def test_what_is_out_of_bounds(tiny: Path, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(BASES["OUT_OF_BOUNDS"], tiny, tmp_path, as_base)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def test_a_tokenizer_that_gives_up_on_a_text_says_so(tiny: Path, tmp_path: Path) -> None:
    """The tokenizers library panics then, which is no Exception."""
    folder = copied(tiny, tmp_path / "model", hostile.split_by("(x+x+)+y"))
    base = load_base(str(folder), bits=32, device=CPU)
    with pytest.raises(ModelError, match="the tokenizer failed on a text"):
        text_ids(base.tokenizer, ["x" * 60])


def test_a_log_of_any_length_is_read_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with path.open("w") as file:
        for step in range(20_000):
            file.write(json.dumps({"step": step, "loss": 1.0}) + "\n")
            if step % 4000 == 0:
                file.write("x" * (3 << 20) + '{"step": 1}\n{"torn": \n[1]\n' + "[" * 100_000 + "\n")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + (300 << 20))  # no line at all
    rows = read_lines(path)
    assert [row["step"] for row in rows] == list(range(20_000))
    thinned = read_lines(path, budget=100_000)
    assert 1000 < len(thinned) < 4000 and thinned[0]["step"] == 0 and thinned[-1]["step"] == 19_999


def test_the_digest_covers_what_is_read_and_nothing_else(tiny: Path, tmp_path: Path) -> None:
    good = weights_digest(find_weights(tiny, "it"))
    decoy = copied(tiny, tmp_path / "decoy", lambda folder: (folder / "extra.safetensors").write_bytes(b"x"))
    assert weights_digest(find_weights(decoy, "it")) == good
    sharded = copied(tiny, tmp_path / "sharded", hostile.sharded)
    (sharded / "other.safetensors").write_bytes(b"not one")
    both = load_base(str(sharded), bits=32, device=CPU).model.state_dict()
    whole = load_base(str(tiny), bits=32, device=CPU).model.state_dict()
    assert all(torch.equal(both[name], whole[name]) for name in whole)
    path = next(sharded.glob("model-00002*"))
    before, data = weights_digest(find_weights(sharded, "it")), bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert weights_digest(find_weights(sharded, "it")) != before


def test_kinds_and_shapes_of_a_header_beyond_the_first_slice_are_in_the_digest(tmp_path: Path) -> None:
    """64 slices are read of a large file: a header of several slices could else say another thing at the same length."""
    entries = {
        f"t{i:05}": {"dtype": "F32", "shape": [2, 8], "data_offsets": [64 * i, 64 * i + 64]} for i in range(3000)
    }
    end = 64 * len(entries)
    entries["large"] = {"dtype": "U8", "shape": [1 << 28], "data_offsets": [end, end + (1 << 28)]}

    def written(folder: Path, *, shape: list[int]) -> Path:
        folder.mkdir()
        text = json.dumps({**entries, "t01500": {**entries["t01500"], "shape": shape}}).encode()
        with (folder / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end + (1 << 28))  # of zeros, which take no room
        return folder

    one = weights_digest(find_weights(written(tmp_path / "a", shape=[2, 8]), "it"))
    assert one != weights_digest(find_weights(written(tmp_path / "b", shape=[8, 2]), "it"))


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good adapter, trained for two steps."""
    run = tmp_path_factory.mktemp("run") / "run"
    rows = run.parent / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"quote": f"Be kind to {word}.", "tags": [word]}) + "\n" for word in "abcdefghijkl")
    )
    florilegium.train(rows, model=str(tiny), output=str(run), bits=32, max_steps=2, device="cpu")
    return run / "adapter"


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_that_is_more_or_less_than_lora(tiny: Path, adapter: Path, tmp_path: Path, kind: str) -> None:
    """Refused, and the base holds the numbers that it held."""
    base = load_base(str(tiny), bits=32, device=CPU)
    before = adapters_refused(kind, base, adapter, tmp_path)
    model = load_adapter(base, adapter)
    prefix = "base_model.model."
    held = {name.removeprefix(prefix).replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(held[name], before[name]) for name in before)


def remove_lora(base: Base) -> None:
    """The base without what PEFT put on it, as its next load would find it."""
    for name, module in list(base.model.named_modules()):
        if hasattr(module, "base_layer"):
            base.model.set_submodule(name, module.base_layer)
    if hasattr(base.model, "peft_config"):
        del base.model.peft_config


def test_a_checkpoint_cannot_change_the_base(tiny: Path, adapter: Path) -> None:
    base = load_base(str(tiny), bits=32, device=CPU)
    model = load_adapter(base, adapter)
    state, name = adapter_state(model), "base_model.model.transformer.word_embeddings.weight"
    before = model.base_model.model.transformer.word_embeddings.weight.clone()
    for changed in ({**state, name: torch.zeros_like(before)}, dict(list(state.items())[1:])):
        with pytest.raises(ModelError, match="does not fit this model"):
            set_adapter_state(model, changed)
    assert torch.equal(model.base_model.model.transformer.word_embeddings.weight, before)
    set_adapter_state(model, state)


def test_how_many_there_are(figure: Callable[[str, str], None]) -> None:
    """The figure for RELIABILITY.md: the tests above refuse each of them."""
    counts = [len(members) for members in (*BASES.values(), *ADAPTERS.values())]
    assert min(counts) >= 20
    figure(
        "hostile",
        f"{sum(counts)} members of {len(counts)} kinds, each refused in one line; {len(IGNORED)} left out",
    )
