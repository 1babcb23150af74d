"""The tokenizer as llama.cpp reads it: tokens, merges, special ids, and which pre-tokenizer to use.

llama.cpp has its pre-tokenizers built in, by name. Its own converter finds the name by a hash of what a text is encoded
to, so every vocabulary that it has not seen is refused. What decides is the pattern that text is split by, and that
stands in tokenizer.json: it is compared here, so any vocabulary over a known pattern is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from florilegium.errors import ModelError

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    " ?[^(\\s|[.,!?…。，、।۔،])]+": "bloom",
    _LETTERS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _LETTERS + r"\p{N}" + _REST: "qwen2",
}
GPT2 = "gpt-2"  # ByteLevel's own pattern
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's token types


@dataclass(frozen=True)
class Vocabulary:
    """`model` is llama.cpp's kind ("gpt2" for byte-level BPE, "llama" for SentencePiece's); `ids` the special ones by
    name; `scores` for "llama", `merges` for "gpt2"."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    ids: dict[str, int]
    adds_bos: bool
    adds_eos: bool
    space_prefix: bool = True

    def write(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.scores:
            writer.add_token_scores(self.scores)
        for name, number in self.ids.items():
            getattr(writer, f"add_{name}_token_id")(number)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(self.adds_eos)
        if self.model == "llama":
            writer.add_add_space_prefix(self.space_prefix)


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int) -> Vocabulary:
    """The vocabulary of a fast tokenizer, filled up to the `rows` of the embedding. Raises ModelError for a tokenizer
    that llama.cpp has no like of."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = json.loads(backend.to_str()) if backend is not None else {}
    model = described.get("model", {})
    if model.get("type") != "BPE":
        raise ModelError(
            f"its tokenizer is {model.get('type', 'none of the fast ones')!r}, and BPE alone is written here",
            "Export with --to merged, and convert that with llama.cpp's convert_hf_to_gguf.py",
        )
    pieces = bool(model.get("byte_fallback"))
    added = {int(token["id"]): token for token in described.get("added_tokens", [])}
    by_id = {number: token for token, number in model["vocab"].items()} | {n: t["content"] for n, t in added.items()}
    if max(by_id) >= rows:
        raise ModelError(
            f"the tokenizer has {max(by_id) + 1} tokens and the embedding {rows} rows", "Export with --to merged"
        )
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(rows)]
    types = [_type(i, by_id, added, pieces, tokenizer.unk_token_id) for i in range(rows)]
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    encoded = tokenizer("a")["input_ids"]
    return Vocabulary(
        "llama" if pieces else "gpt2",
        "default" if pieces else _pre_tokenizer(described),
        tokens,
        types,
        [] if pieces else pairs,
        _scores(tokens, model["merges"]) if pieces else [],
        {name: n for name in ("bos", "eos", "unk", "pad") if (n := getattr(tokenizer, f"{name}_token_id")) is not None},
        encoded[0] == tokenizer.bos_token_id,
        encoded[-1] == tokenizer.eos_token_id,
        tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).tokens[0].startswith("▁"),
    )


def _type(number: int, by_id: dict[int, str], added: dict[int, Any], pieces: bool, unknown: int | None) -> int:
    if number not in by_id:
        return UNUSED
    if number in added:
        return CONTROL if added[number]["special"] else USER_DEFINED
    if pieces and number == unknown:
        return UNKNOWN
    token = by_id[number]
    return BYTE if pieces and len(token) == 6 and token.startswith("<0x") else NORMAL


def _scores(tokens: list[str], merges: list[Any]) -> list[float]:
    """SentencePiece's scores out of the order of the merges: llama.cpp joins the pair of the highest score first."""
    rank = {
        "".join(merge.split(" ") if isinstance(merge, str) else merge): -float(i)
        for i, merge in reversed(list(enumerate(merges)))
    }
    return [rank.get(token, 0.0 if len(token) == 1 else -1e9) for token in tokens]


def _pre_tokenizer(described: Mapping[str, Any]) -> str:
    """llama.cpp's name for how the text is split before the merges."""
    pre = described.get("pre_tokenizer") or {}
    parts = pre.get("pretokenizers", [pre])
    patterns = [p["pattern"].get("Regex", p["pattern"].get("String")) for p in parts if p.get("type") == "Split"]
    levels = [p for p in parts if p.get("type") == "ByteLevel"]
    if len(levels) == 1 and not levels[0].get("add_prefix_space") and len(parts) == len(patterns) + 1:
        if not patterns and levels[0].get("use_regex", True):
            return GPT2
        if len(patterns) == 1 and not levels[0].get("use_regex", True) and patterns[0] in PATTERNS:
            return PATTERNS[patterns[0]]
    shown = patterns[0] if patterns else ", ".join(str(p.get("type")) for p in parts)
    raise ModelError(
        f"llama.cpp has no pre-tokenizer that splits text as this one does ({shown})", "Export with --to merged"
    )
