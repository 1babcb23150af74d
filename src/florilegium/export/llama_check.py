"""A GGUF file asked by llama.cpp what the live adapter was asked, where llama.cpp is installed (`xllamacpp`)."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from florilegium.errors import ModelError, ResourceError, whole_reason
from florilegium.export import llama_worker
from florilegium.export.probe import NEW_TOKENS, TOP, Answers, Probe, Step
from florilegium.export.verdict import Verdict, judge_gguf

MISSING = "llama.cpp is not installed here (pip install 'florilegium[export]' brings it)"


def has_llama_cpp() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None


def check_gguf(live: Answers, probe: Probe, kind: str, model: Path, lora: Path | None = None) -> Verdict:
    """The verdict on `model`, with the adapter `lora` on it. Raises ModelError where llama.cpp cannot load it."""
    said = ask_llama_cpp(probe.prompts, probe.end_of_text, model, lora)
    same = sum(mine == theirs for mine, theirs in zip(probe.prompt_ids, said["tokens"], strict=True))
    texts = [
        [Step(token, {int(i): value for i, value in top.items()}) for token, top in text] for text in said["texts"]
    ]
    return judge_gguf(live.greedy, texts, kind, same, probe.what)


def _threads() -> int:
    """As many as torch would take here."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else len(os.sched_getaffinity(0))


def ask_llama_cpp(
    prompts: list[str], end_of_text: int, model: Path, lora: Path | None = None, new_tokens: int = NEW_TOKENS
) -> llama_worker.Json:
    """The prompts' tokens and greedy continuations (`llama_worker.py`). Raises ModelError where the file cannot be
    loaded."""
    asked = {
        "model": str(model), "lora": str(lora) if lora else "", "prompts": prompts, "end_of_text": end_of_text,
        "new_tokens": new_tokens, "top": TOP, "threads": _threads(),
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, llama_worker.__file__],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        errors="replace",
    )
    try:
        found = json.loads(ran.stdout) if ran.returncode == 0 else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        if ran.returncode == -signal.SIGKILL:
            cause = "llama.cpp was killed while it checked the export, probably out of memory"
            raise ResourceError(cause, "Close other programs, or keep it unchecked with --no-check")
        said = whole_reason(ran.stderr[-5000:]) or f"it ended with {ran.returncode}"
        raise ModelError(f"the export does not load in llama.cpp and was removed ({said})", "Please report it")
    return found
