"""A token by itself: its bytes are the text's, its text stands in the text where it is said to begin."""

from __future__ import annotations

from itertools import pairwise

import pytest
from transformers import PreTrainedTokenizerBase

from florilegium.generation.text_pieces import decoded
from florilegium.generation.token_texts import Places, texts_of
from tests.generation.test_text_pieces import TEXT, byte_fallback, tokenizer

__all__ = ["byte_fallback", "tokenizer"]


def check(tokenizer: PreTrainedTokenizerBase, text: str, prompt: int) -> None:
    """After a prompt of so many tokens."""
    ids, known = tokenizer(text)["input_ids"], texts_of(tokenizer)
    before = decoded(tokenizer, ids[:prompt])
    places = Places(tokenizer, ids[:prompt], len(before))
    found = [places.next(token) for token in ids[prompt:]]
    whole = decoded(tokenizer, ids)
    for token, place in zip(ids[prompt:], found, strict=True):
        own = known.text(token)
        if "\ufffd" in own:
            assert known.bytes(token).decode(errors="replace") != "" and len(known.bytes(token)) < 4
        else:
            assert whole[place : place + len(own)] == own or (place == 0 and own == f" {whole[: len(own) - 1]}")
    assert found == sorted(found) and found[-1] < len(whole)
    own_bytes = b"".join(known.bytes(token) for token in ids)
    assert own_bytes.removeprefix(b" " if not whole.startswith(" ") else b"") == whole.encode()


@pytest.mark.parametrize("prompt", [0, 1, 7])
def test_tokens_stand_where_they_are_said_to_begin(tokenizer: PreTrainedTokenizerBase, prompt: int) -> None:
    check(tokenizer, TEXT, prompt)


@pytest.mark.parametrize("prompt", [0, 4])
def test_those_of_sentencepiece_too(byte_fallback: PreTrainedTokenizerBase, prompt: int) -> None:
    check(byte_fallback, "The sea — «où» 海は広い 🌊 a b", prompt)


def test_tokens_of_one_character_begin_together(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer("x👩y")["input_ids"]
    places = Places(tokenizer)
    found = [places.next(token) for token in ids]
    assert found[0] == 0 and found[-1] == 2 and set(found[1:-1]) == {1}
    assert all(a <= b for a, b in pairwise(found))
