"""A byte-level BPE of 8,192 entries, built like BLOOM's.

Same special ids (`<unk>` 0, `<s>` 1, `</s>` 2, `<pad>` 3), same pre-tokenizer (BLOOM's regex, then bytes), nothing
added in front. The regex cuts before each space, so a text's ids are a prefix of the ids of the text with ` word`
appended, and every byte has an entry, so any text comes back from its ids as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VOCABULARY = 8192
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
END = 2  # </s>: ends each document and stands before the next
BLOOM_PATTERN = r" ?[^(\s|[.,!?…。，、।۔،])]+"
MAX_LENGTH = 2048


def train_tokenizer(texts: Iterator[str], vocabulary: int = VOCABULARY) -> Any:
    """A `transformers` fast tokenizer trained on the texts."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(BLOOM_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        clean_up_tokenization_spaces=False, model_max_length=MAX_LENGTH, padding_side="left",
    )  # fmt: skip


def documents(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["document"]


def run(work: Path, most: int = 200_000) -> None:
    """Train on the first `most` training documents."""
    folder = work / "tokenizer"
    if (folder / "tokenizer.json").exists():
        print("tokenizer: done before")
        return
    texts = (text for text, _ in zip(documents(work / "train.jsonl"), range(most), strict=False))
    tokenizer = train_tokenizer(texts)
    tokenizer.save_pretrained(folder)
    sample = [text for text, _ in zip(documents(work / "heldout.jsonl"), range(1000), strict=False)]
    lengths = [len(ids) for ids in tokenizer(sample).input_ids]
    assert all(tokenizer.decode(tokenizer(text).input_ids) == text for text in sample)
    per_token = sum(len(text.encode()) for text in sample) / sum(lengths)
    print(f"tokenizer: {len(tokenizer):,} entries, {per_token:.2f} bytes a token on held-out text")
