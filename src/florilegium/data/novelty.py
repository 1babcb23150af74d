"""Is a generated quote new, or a piece of the training rows?

A quote counts as a copy when it shares a run of eight words with a training row, or, being shorter, is one word for
word. Words are compared without case and punctuation; where a script has no spaces, two signs count as a word. The index
is one 64-bit hash a run: it is small enough to lie in the run's folder, and does not hold the texts themselves."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from florilegium.data.words import INDIAN, UNSPACED, fold
from florilegium.errors import ModelError, reason_of
from florilegium.storage.atomic_files import atomic_write
from florilegium.storage.library_errors import ran_out_of_memory

RUN_WORDS = 8
FORMAT = {"format": "2"}  # without it: signs of scripts without spaces stood for one word, however many
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text, case-folded, punctuation gone; a straight and a typographic apostrophe are the same."""
    return [word.replace("’", "'") for word in WORD.findall(text.casefold())]


class NoveltyIndex:
    """Hashed eight-word runs of the training texts, sorted: int64 [N]. `by_signs`: as they are hashed now, and not as
    in a file of an older run."""

    def __init__(self, hashes: np.ndarray, by_signs: bool = True) -> None:
        self.hashes, self.by_signs = hashes, by_signs

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> NoveltyIndex:
        return cls(np.unique(np.array([h for text in texts for h in _hashes(text)], dtype=np.int64)))

    @classmethod
    def load(cls, path: Path) -> NoveltyIndex:
        """Raises ModelError when the file is broken."""
        from safetensors import safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                return cls(file.get_tensor("hashes"), file.metadata() == FORMAT)
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
            file.write(save({"hashes": self.hashes}, FORMAT))

    def is_novel(self, text: str) -> bool:
        """Whether no run of eight words (the whole, of a shorter text) is in the index."""
        wanted = np.array(_hashes(text, self.by_signs), dtype=np.int64)
        if not len(wanted) or not len(self.hashes):
            return True
        place = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        return not bool((self.hashes[place] == wanted).any())


def _hashes(text: str, by_signs: bool = True) -> list[int]:
    return [
        int.from_bytes(hashlib.blake2b(" ".join(run).encode(), digest_size=8).digest(), "big", signed=True)
        for run in _runs(text, by_signs)
    ]


def _runs(text: str, by_signs: bool) -> list[list[str]]:
    """Every run of eight words; the whole text where it has fewer."""
    if not by_signs or not (UNSPACED.search(text) or INDIAN.search(text)):
        tokens = words(text)
        return [tokens[i : i + RUN_WORDS] for i in range(max(1, len(tokens) - RUN_WORDS + 1))] if tokens else []
    tokens = fold(text)
    halves = np.cumsum([0, *(1 if UNSPACED.match(token) else 2 for token in tokens)])  # half words before each token
    ends = np.searchsorted(halves, halves[:-1] + 2 * RUN_WORDS)
    runs = [tokens[i:end] for i, end in enumerate(ends.tolist()) if end <= len(tokens)]
    return runs or ([tokens] if tokens else [])
