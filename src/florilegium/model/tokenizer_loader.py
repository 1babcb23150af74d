"""A model's tokenizer, by a class that reads data and does nothing else.

`tokenizer_class` may name anything that Transformers exports, another model's loader among it, and some of its tokenizers
call other programs or libraries. Those of the tokenizers library read one JSON file. What is read is bounded: a real
tokenizer has at most 33 MB."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florilegium.errors import ModelError
from florilegium.model.hub import locate, read_config
from florilegium.model.load_errors import model_errors, quietly
from florilegium.model.model_config import model_config
from florilegium.model.tokenizer_rules import check_rules
from florilegium.model.untrusted import check_file, read_json
from florilegium.storage.native_stderr import native_stderr_away

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_FILE_BYTES = 64 << 20
PATTERNS = (
    "tokenizer*",
    "*.model",
    "vocab*",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
    "additional_chat_templates/*",
)
# Written in Python, and reading nothing but their own files; the rest of that kind segments text by other programs.
IN_PYTHON = (
    "PreTrainedTokenizer",
    "GPTNeoXJapaneseTokenizer",
    "MistralCommonBackend",
    "GPTSw3Tokenizer",
    "ByT5Tokenizer",
    "CTRLTokenizer",
)
BY_OTHER_PROGRAMS = ("CpmTokenizerFast", "RoFormerTokenizer")


def tokenizer_of(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of the model `name`, downloaded with it if it is a Hub id. Raises ModelError."""
    folder = locate(name, revision)
    return load_tokenizer(folder, read_config(folder, name), name)


def load_tokenizer(folder: Path, config: Mapping[str, Any], name: str) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, whose config.json is `config`. Raises ModelError."""
    from transformers import AutoTokenizer

    for path in sorted({path for pattern in PATTERNS for path in folder.glob(pattern)}):
        if not path.is_dir():
            check_file(path, f"the {path.name} of {name}", MAX_FILE_BYTES)
    if (folder / "tokenizer.json").is_file():
        check_rules(read_json(folder / "tokenizer.json", f"the tokenizer.json of {name}", MAX_FILE_BYTES), name)
    path = folder / "tokenizer_config.json"
    settings = read_json(path, f"the {path.name} of {name}", MAX_FILE_BYTES) if path.exists() else {}
    check_settings(settings, name)
    for chosen in (settings.get("tokenizer_class"), settings.get("tokenizer_type"), config.get("tokenizer_class")):
        if chosen is not None:
            check_class(chosen, name)
    with quietly(), native_stderr_away(), model_errors(name):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, config=model_config(config, name), local_files_only=True, trust_remote_code=False
        )
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, embedding_rows: int, name: str) -> None:
    """Raises ModelError where a text can have tokens that the embedding has no row for: words were added to the
    tokenizer, and the model was not made larger. Special tokens that no text becomes may lie beyond."""
    framed = max(tokenizer("a")["input_ids"], default=0)  # with what is put before and behind every text
    if framed >= embedding_rows:
        raise ModelError(
            f"the tokenizer of {name} puts token {framed} to every text, and the embedding has {embedding_rows:,} rows",
            "Get the model again, or choose another --model",
        )
    special = set(tokenizer.all_special_ids) - {tokenizer.eos_token_id}
    beyond = {word: number for word, number in tokenizer.get_vocab().items() if number >= embedding_rows}
    used = sorted((number, word) for word, number in beyond.items() if number not in special)
    if used:
        number, word = used[0]
        raise ModelError(
            f"the tokenizer of {name} knows {len(used):,} tokens that its embedding of {embedding_rows:,} rows lacks "
            f"(token {number}, {word[:40]!r})",
            "Call model.resize_token_embeddings(len(tokenizer)) and save it again, or choose another model",
        )


def check_settings(settings: Mapping[str, Any], name: str) -> None:
    """Raises ModelError where tokenizer_config.json puts a value in place of the tokenizer itself or of one of its methods:
    versions of Transformers take it, die of it or pass it over."""
    import transformers

    methods = transformers.PreTrainedTokenizerFast
    for key in settings:
        if key == "tokenizer_object" or callable(getattr(methods, key, None)):
            raise ModelError(
                f"the tokenizer_config.json of {name} sets {key[:40]!r}, which is a part of the program and no setting",
                f"Take {key[:40]!r} out of it, or choose another model",
            )


def check_class(chosen: object, name: str) -> None:
    """A name that Transformers does not know is no harm: it falls back on the tokenizers library."""
    import transformers

    names = (chosen, chosen.removesuffix("Fast")) if isinstance(chosen, str) else ()
    found = next((found for one in names if (found := getattr(transformers, one, None)) is not None), None)
    library = transformers.PreTrainedTokenizerFast
    by_library = isinstance(found, type) and issubclass(found, library) and found.__name__ not in BY_OTHER_PROGRAMS
    if not names or not (found is None or by_library or names[0] in IN_PYTHON):
        raise ModelError(
            f"{name} wants the tokenizer {str(chosen)[:60]!r}, which does more than read its files",
            "Save it as tokenizer.json (PreTrainedTokenizerFast), or choose another model",
        )
