"""An adapter of somebody else brings a tokenizer of its own: what a base's may not do, this one may not either."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from florilegium.errors import ModelError
from florilegium.runs.export import export
from tests.export.adapters import KINDS, save_adapter
from tests.tiny import make_tokenizer
from tests.torture.hostile import Change, edit_json, edit_tokenizer, link, more_words, sparse

REFUSED: dict[str, Change] = {
    "a class that calls other programs": edit_json("tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer"),
    "a class that is a list": edit_json("tokenizer_config.json", tokenizer_class=["PreTrainedTokenizerFast"]),
    "a type of something else": edit_json("tokenizer_config.json", tokenizer_type="AutoModel"),
    "a method": edit_json("tokenizer_config.json", encode="x"),
    "tokens by chance": edit_tokenizer(lambda values: values["model"].update(dropout=0.5)),
    "words that the embedding lacks": edit_tokenizer(more_words),
    "a file of any size": sparse("tokenizer.json", 65 << 20),
    "a file that is a loop": link("tokenizer.json", "tokenizer.json"),
}


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A foreign one: PEFT's files and a tokenizer, and nothing of ours."""
    folder = save_adapter(tiny, tmp_path_factory.mktemp("foreign") / "adapter", **KINDS["qkv"])
    make_tokenizer().save_pretrained(folder)
    return folder


KIND = {"gguf": "f16", "gguf-adapter": "f32", "merged": "f16", "quantised": "int8"}
FORMS = [
    *(("gguf", kind) for kind in REFUSED),
    *((form, "a method") for form in ("merged", "quantised", "gguf-adapter")),
]


@pytest.mark.parametrize(("form", "kind"), FORMS)
def test_it_is_refused_before_anything_is_written(
    tiny: Path, adapter: Path, tmp_path: Path, form: str, kind: str
) -> None:
    if "gguf" in form:
        pytest.importorskip("gguf")
    own = shutil.copytree(adapter, tmp_path / "adapter")
    REFUSED[kind](own)
    with pytest.raises(ModelError) as refused:
        export(own, to=form, kind=KIND[form], output=str(tmp_path / "out"), model=str(tiny), check=False)
    assert "adapter" in refused.value.cause and refused.value.fix
    assert not (tmp_path / "out").exists()


def test_a_plain_one_goes_along(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    export(adapter, to="merged", output=str(tmp_path / "out"), model=str(tiny), check=False)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (adapter / "tokenizer.json").read_bytes()
