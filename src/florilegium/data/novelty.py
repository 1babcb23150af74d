"""Is a generated quote new, or a piece of the training rows?

A quote counts as a copy when it shares a run of eight words with a training row, or, being shorter, is one word for
word. Words are compared without case and punctuation. The index is one 64-bit hash a run: it is small enough to lie in
the run's folder, and does not hold the texts themselves."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from florilegium.errors import ModelError, reason_of
from florilegium.storage.atomic_files import atomic_write
from florilegium.storage.library_errors import ran_out_of_memory

RUN_WORDS = 8
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text, case-folded, punctuation gone; a straight and a typographic apostrophe are the same."""
    return [word.replace("’", "'") for word in WORD.findall(text.casefold())]


class NoveltyIndex:
    """Hashed eight-word runs of the training texts, sorted: int64 [N]."""

    def __init__(self, hashes: np.ndarray) -> None:
        self.hashes = hashes

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> NoveltyIndex:
        return cls(np.unique(np.array([h for text in texts for h in _hashes(text)], dtype=np.int64)))

    @classmethod
    def load(cls, path: Path) -> NoveltyIndex:
        """Raises ModelError when the file is broken."""
        from safetensors.numpy import load_file

        try:
            return cls(load_file(path)["hashes"])
        except PermissionError:
            raise ModelError(f"{path}: permission denied", f"Make it readable: chmod u+r {path}") from None
        except Exception as error:  # safetensors raises its own kind, KeyError and OSError
            if ran_out_of_memory(error):
                raise
            raise ModelError(
                f"{path} cannot be read ({type(error).__name__}: {reason_of(error, 300)})",
                "Delete the file to continue without copy detection",
            ) from None

    def save(self, path: Path) -> None:
        from safetensors.numpy import save

        with atomic_write(path) as file:
            file.write(save({"hashes": self.hashes}))

    def is_novel(self, text: str) -> bool:
        """Whether no run of eight words (the whole, of a shorter text) is in the index."""
        wanted = np.array(_hashes(text), dtype=np.int64)
        if not len(wanted) or not len(self.hashes):
            return True
        place = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        return not bool((self.hashes[place] == wanted).any())


def _hashes(text: str) -> list[int]:
    tokens = words(text)
    if not tokens:
        return []
    runs = [tokens[i : i + RUN_WORDS] for i in range(max(1, len(tokens) - RUN_WORDS + 1))]
    return [
        int.from_bytes(hashlib.blake2b(" ".join(run).encode(), digest_size=8).digest(), "big", signed=True)
        for run in runs
    ]
