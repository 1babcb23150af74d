"""Asks `chat_worker.py` for a tokenizer's chat template, filled with some turns: what Transformers' `apply_chat_template`
gives, from a program of others that may loop without end."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from florilegium.errors import counted, whole_reason
from florilegium.tokens import chat_worker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 10  # of a processor; a template takes some milliseconds
PATIENCE = 6  # times as long by the clock: the machine may be busy, and the libraries are read first


def render_chat(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]]) -> str:
    """Raises ValueError with the reason where the template gives none."""
    asked = {
        "template": tokenizer.get_chat_template(),
        "turns": turns,
        "special": tokenizer.special_tokens_map,
        "seconds": SECONDS,
    }
    found = _answer(json.dumps(asked, default=str))
    if "text" not in found:
        raise ValueError(found.get("error", "no reason was given"))
    return str(found["text"])


@functools.lru_cache(maxsize=8)
def _answer(asked: str) -> Mapping[str, object]:
    try:
        ran = subprocess.run(
            [sys.executable, "-P", chat_worker.__file__],
            input=asked, capture_output=True, text=True, errors="replace", timeout=PATIENCE * SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"it takes longer than {counted(PATIENCE * SECONDS, 'second')}"}
    try:
        found = json.loads(ran.stdout)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    if ran.returncode < 0:  # by the system, at its limits
        return {"error": f"it takes more than {counted(SECONDS, 'second')} or 1 GiB"}
    return {"error": whole_reason(ran.stderr[-2000:]) or f"its process ended with {ran.returncode}"}
