"""Pieces of a text: together they are the text, none holds half a character, and a stop string is never shown."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from florilegium import seedling
from florilegium.generation.text_pieces import ByteReader, TextPieces, WindowReader, decoded, reader_of
from tests.tiny import make_tokenizer

TEXT = "The sea — «où» 海は広い 🌊👩‍👩‍👧 it's  two  spaces.\nA new line ->: tags, ünïcödé " * 4


@pytest.fixture(scope="module", params=["tiny", "seedling", "added tokens", "chat template"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    if request.param == "seedling":
        return AutoTokenizer.from_pretrained(seedling.FOLDER)
    made = make_tokenizer()
    if request.param == "added tokens":
        made.add_tokens(["two  spaces", "海", "sea — «o"])
        made.add_special_tokens({"additional_special_tokens": ["<quote>"]})
    if request.param == "chat template":  # its special tokens may be text: the last tokens are decoded again
        made.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    assert isinstance(reader_of(made, ()), WindowReader if request.param == "chat template" else ByteReader)
    return made


@pytest.mark.parametrize("prompt", [0, 1, 7, 40])
def test_pieces_are_the_text(tokenizer: PreTrainedTokenizerBase, prompt: int) -> None:
    ids = tokenizer(TEXT)["input_ids"]
    pieces = TextPieces(tokenizer, ids[:prompt])
    out = [pieces.push(token) for token in ids[prompt:]] + [pieces.end()]
    assert "".join(out) == decoded(tokenizer, ids)[len(decoded(tokenizer, ids[:prompt])) :]
    assert not any("\ufffd" in piece for piece in out)


@pytest.mark.parametrize("last", [260, None])
def test_any_tokens_at_all_are_as_decoded_at_once(tokenizer: PreTrainedTokenizerBase, last: int | None) -> None:
    """Half characters everywhere, or all tokens that there are and one more, after a prompt of any length."""
    generator = torch.Generator().manual_seed(0)
    chat = tokenizer.chat_template is not None  # of all tokens the special ones are text there, or not, by the others
    for prompt in range(60):
        ids = torch.randint(4 if last or chat else 0, last or len(tokenizer) + 1, (60,), generator=generator).tolist()
        pieces = TextPieces(tokenizer, ids[:prompt])
        out = "".join(pieces.push(token) for token in ids[prompt:]) + pieces.end()
        assert out == decoded(tokenizer, ids)[len(decoded(tokenizer, ids[:prompt])) :], prompt


@pytest.mark.parametrize("stop", [[" ->:"], ["->", " ->: t"], ["\n"], ["海は"], ["sea", "The s"], ["never there"]])
def test_a_stop_string_is_held_back_and_left_out(tokenizer: PreTrainedTokenizerBase, stop: list[str]) -> None:
    ids = tokenizer(TEXT)["input_ids"]
    pieces, out = TextPieces(tokenizer, stop=stop), ""
    for token in ids:
        out += pieces.push(token)
        assert not any(one in out for one in stop)
        if pieces.stopped:
            break
    out += pieces.end()
    found = [(TEXT.find(one) + len(one), TEXT.find(one)) for one in stop if one in TEXT]
    assert pieces.stopped == bool(found)
    assert out == (TEXT[: min(found)[1]] if found else TEXT)


@pytest.fixture(scope="module")
def byte_fallback() -> PreTrainedTokenizerBase:
    """As Llama 2's and Gemma's: a character that is not in the vocabulary is a token for each of its bytes."""
    vocabulary = {"<unk>": 0, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}}
    for character in "▁abcdefghijklmnopqrstuvwxyzTHA.,:!?<>-":
        vocabulary[character] = len(vocabulary)
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


@pytest.mark.parametrize("text", [TEXT, "Hi 🌊🌊!?x", "海は広い" * 12, "é", "தமிழ் மொழி " * 6], ids=range(5))
def test_characters_of_several_tokens_are_shown_when_they_are_whole(
    byte_fallback: PreTrainedTokenizerBase, text: str
) -> None:
    ids = byte_fallback(text)["input_ids"]
    assert isinstance(reader_of(byte_fallback, ()), WindowReader) and decoded(byte_fallback, ids) == text
    begun = [n for n in range(min(50, len(ids))) if not decoded(byte_fallback, ids[:n]).endswith("\ufffd")]
    for prompt in begun:
        pieces = TextPieces(byte_fallback, ids[:prompt])
        out = [pieces.push(token) for token in ids[prompt:]] + [pieces.end()]
        assert "".join(out) == text[len(decoded(byte_fallback, ids[:prompt])) :], prompt
        assert not any("\ufffd" in piece for piece in out)


def test_what_a_stop_string_may_begin_with_comes_at_the_end() -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer("kind to the s")["input_ids"]
    pieces = TextPieces(tokenizer, stop=["sea", "the sea"])
    shown = "".join(pieces.push(token) for token in ids)
    assert shown == "kind to " and pieces.end() == "the s" and not pieces.stopped


def test_the_work_for_a_token_does_not_grow_with_the_text() -> None:
    tokenizer, longest = make_tokenizer(), 0
    reader = WindowReader(tokenizer, ())
    for token in tokenizer(TEXT * 20)["input_ids"]:
        reader.push(token)
        longest = max(longest, len(reader.window))
    assert longest < 40
