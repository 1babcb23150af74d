"""The tokenizer that goes along with an export: the one that the adapter was trained with, or the base's where the
adapter brings none.

An adapter may be somebody else's, so its tokenizer passes what a base's passes (`model/tokenizer_loader.py`), whether the
form needs it or only copies it: whoever loads the export would run what it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from florilegium.export.merge import Merge
from florilegium.model.tokenizer_loader import check_vocabulary, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenizer_folder(base: Path, adapter: Path) -> Path:
    """Where it lies."""
    return adapter if (adapter / "tokenizer_config.json").is_file() else base


def checked_tokenizer(merge: Merge, adapter: Path) -> PreTrainedTokenizerBase:
    """Raises ModelError for one that does more than read its files, or has tokens that the embedding lacks."""
    folder = tokenizer_folder(merge.base.folder, adapter)
    tokenizer = load_tokenizer(folder, merge.base.config, str(folder))
    check_vocabulary(tokenizer, merge.tensors[merge.embedding].shape[0], str(folder))
    return tokenizer
