"""What an export or a push tells when it fails: the whole reason, and what was not tried yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from florilegium.errors import FlorilegiumError, ModelError, ResourceError
from florilegium.export.gguf_types import import_gguf
from florilegium.export.hub import Trying
from florilegium.export.llama_check import ask_llama_cpp


def refused(error: Exception) -> FlorilegiumError:
    def call() -> None:
        raise error

    with pytest.raises(FlorilegiumError) as caught:
        Trying("me/quotes", lambda line: None)("upload", call)
    return caught.value


def test_the_hubs_reason_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    found = refused(RuntimeError("Bad request:\n\nYour card's metadata is invalid: 'license' must be one of [...]"))
    assert isinstance(found, ModelError) and "'license' must be one of" in found.cause


def test_memory_that_runs_out_is_no_refusal_of_the_hub() -> None:
    def call() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        Trying("me/quotes", lambda line: None)("upload", call)


@pytest.mark.parametrize(
    ("code", "said", "kind", "expected"),
    [
        (1, "Traceback\nValueError: unknown tensor\n  blk.7.attn_q", ModelError, "unknown tensor blk.7.attn_q"),
        (-9, "", ResourceError, "out of memory"),
        (3, "", ModelError, "it ended with 3"),
    ],
)
def test_why_llama_cpp_did_not_load_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, said: str, kind: type[Exception], expected: str
) -> None:
    ended = subprocess.CompletedProcess([], code, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **named: ended)
    with pytest.raises(kind, match=expected):
        ask_llama_cpp(["Be kind"], 2, tmp_path / "model.gguf")


def test_a_package_that_cannot_be_imported_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gguf.py").write_text("raise ImportError('numpy.core.multiarray failed to import')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "gguf", raising=False)
    with pytest.raises(ModelError, match="cannot be imported .numpy.core"):
        import_gguf()
    monkeypatch.delitem(sys.modules, "gguf", raising=False)
