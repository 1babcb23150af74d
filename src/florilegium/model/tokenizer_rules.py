"""What a tokenizer.json may do to a text, looked at before the tokenizers library reads it.

It is data, and yet it computes: a normalizer replaces a letter by a text of any length, and the next one each letter of
that, so that six lines of JSON make gigabytes of a quote. A post-processor adds ids of its own to every text. Here the
growth that each rule allows is multiplied, and what no real tokenizer needs is refused: theirs make at most some ten
letters of one."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator, Mapping
from typing import Any

from florilegium.errors import ModelError

MAX_GROWTH = 256
MAX_WORD = 8192  # letters of a token; those of rows of spaces have some hundreds
MAX_ADDED_IDS = 256
MAX_ID = 1 << 24  # the largest vocabularies have 262,144 words; some versions of Transformers walk through all numbers
# What one rule makes of one letter at most, where its JSON does not say it.
GROWTH = {"ByteLevel": 2, "BertNormalizer": 3}
FIX = "Get the model again, or choose another --model"


def check_rules(values: Mapping[str, Any], name: str) -> None:
    """Raises ModelError where the tokenizer.json `values` of the model `name` makes far more of a text than it holds, or
    other tokens at each reading."""
    what = f"the tokenizer.json of {name}"
    for parts in (("normalizer", "pre_tokenizer"), ("decoder",)):
        rules = [rule for part in parts for rule in _rules(values.get(part))]
        if math.prod(map(_growth, rules)) > MAX_GROWTH:
            raise ModelError(f"{what} expands one character to more than {MAX_GROWTH} ({parts[0]})", FIX)
    model = values.get("model")
    model = model if isinstance(model, dict) else {}
    if model.get("dropout"):
        raise ModelError(f"{what} tokenizes a text differently each time (dropout {str(model['dropout'])[:20]})", FIX)
    if any(len(word) > MAX_WORD for word in _words(values, model)):
        raise ModelError(f"{what} holds a token of more than {MAX_WORD:,} letters", FIX)
    for word, number in _numbers(values, model):
        if not 0 <= number < MAX_ID:
            raise ModelError(f"{what} gives the token {word[:40]!r} the number {str(number)[:20]}", FIX)
    if sum(len(ids) for ids in _added_ids(values.get("post_processor"))) > MAX_ADDED_IDS:
        raise ModelError(f"{what} adds more than {MAX_ADDED_IDS} tokens to each text", FIX)


def _rules(part: Any) -> Iterator[Mapping[str, Any]]:
    """The rules of a normalizer, pre-tokenizer or decoder, those of its sequences one by one."""
    if isinstance(part, dict):
        lists = [value for value in part.values() if isinstance(value, list)]
        if part.get("type") == "Sequence":
            for rule in (rule for items in lists for rule in items):
                yield from _rules(rule)
        else:
            yield part


def _growth(rule: Mapping[str, Any]) -> int:
    """Letters that one letter can become by this rule, more or less."""
    kind = str(rule.get("type"))
    if kind == "Replace":  # a pattern may match between letters, too
        by_text = isinstance(rule.get("pattern"), dict) and "String" in rule["pattern"]
        return max(1, len(str(rule.get("content", ""))) + (not by_text))
    if kind == "Prepend":
        return max(1, len(str(rule.get("prepend", ""))))
    if kind == "Precompiled":
        return _longest_replacement(rule.get("precompiled_charsmap"))
    return GROWTH.get(kind, 1)


def _longest_replacement(charsmap: object) -> int:
    """Bytes of the longest text in SentencePiece's table: the size of a trie, the trie, texts that end in NUL."""
    try:
        table = base64.b64decode(str(charsmap), validate=True)
    except (binascii.Error, ValueError):
        return MAX_GROWTH + 1
    return max(map(len, table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")))


def _words(values: Mapping[str, Any], model: Mapping[str, Any]) -> Iterator[str]:
    vocabulary, added = model.get("vocab"), values.get("added_tokens")
    if isinstance(vocabulary, (dict, list)):  # a list holds pairs of a word and its score
        yield from (str(word[0] if isinstance(word, list) and word else word) for word in vocabulary)
    if isinstance(added, list):
        yield from (str(token.get("content", "")) for token in added if isinstance(token, dict))
    yield from (str(model.get(key) or "") for key in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token"))


def _numbers(values: Mapping[str, Any], model: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Tokens and their numbers, those that are whole numbers: of others the library says what is wrong."""
    vocabulary, added = model.get("vocab"), values.get("added_tokens")
    pairs = list(vocabulary.items()) if isinstance(vocabulary, dict) else []
    tokens = added if isinstance(added, list) else []
    pairs += [(str(token.get("content", "")), token.get("id")) for token in tokens if isinstance(token, dict)]
    yield from ((word, number) for word, number in pairs if type(number) is int)


def _added_ids(part: Any) -> Iterator[list[Any]]:
    """Every list of ids in a post-processor."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "ids" and isinstance(value, list):
                yield value
            else:
                yield from _added_ids(value)
    elif isinstance(part, list):
        for item in part:
            yield from _added_ids(item)
