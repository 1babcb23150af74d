"""The same weights in llama.cpp's server: greedy texts of a GGUF there are those that `florilegium serve` answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from florilegium.generation.text_pieces import decoded
from florilegium.generation.tuned import load
from florilegium.tokens import end_of_text
from tests.serve.conftest import Server

OPENINGS = [
    "The sea", "Once upon a time", "A door", "Hope is", "My friend said", "Be kind", "Nobody knows", "In the morning", "It is",
    "We are", "The moon —", "A mountain", "Time", "What you", "Every ship", "Rain", "If I were", "She asked", "The road", "Love",
]  # fmt: skip
TOKENS = 24


@pytest.mark.slow
def test_greedy_texts_are_those_of_llama_cpps_server(server: Server, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    from florilegium.export.llama_check import ask_llama_cpp
    from florilegium.runs.export import export

    done = export(run, to="gguf", kind="f32", output=str(tmp_path / "out"), check=False)
    (model,) = done.directory.glob("*.gguf")
    tokenizer = load(run).base.tokenizer
    end = end_of_text(tokenizer)
    said = ask_llama_cpp(OPENINGS, end, model, new_tokens=TOKENS)
    ids = [[token for token, _ in text if token != end] for text in said["texts"]]
    theirs = [
        decoded(tokenizer, [*prompt, *text])[len(opening) :]
        for opening, prompt, text in zip(OPENINGS, said["tokens"], ids, strict=True)
    ]
    ours = server.openai.with_options(timeout=600).completions.create(
        model="sayings", prompt=OPENINGS, temperature=0, max_tokens=TOKENS, extra_body={"repetition_penalty": 1.0}
    )
    assert [choice.text for choice in ours.choices] == theirs
    assert [choice.finish_reason for choice in ours.choices] == [
        "stop" if text[-1][0] == end else "length" for text in said["texts"]
    ]
    assert len(set(theirs)) > len(theirs) / 2
