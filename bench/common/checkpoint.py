"""A checkpoint as the benches train and write with: real files of a BLOOM's size, random weights, and the rows that
they are timed on."""

from __future__ import annotations

import os
from pathlib import Path

from bench.common.gpu_model import SIZES, VOCABULARY

HERE = Path(__file__).resolve().parents[2]
QUOTES = Path(os.environ.get("FLORILEGIUM_DATA", HERE.parent / "shared" / "data")) / "english_quotes.jsonl"


def make_checkpoint(folder: Path, size: str, data: Path) -> None:
    """A BLOOM of that size with random weights in bfloat16, and a tokenizer trained on the rows."""
    import torch
    from transformers import BloomConfig, BloomForCausalLM

    width, heads, layers = SIZES[size]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        BloomForCausalLM(
            BloomConfig(vocab_size=VOCABULARY, hidden_size=width, n_head=heads, n_layer=layers)
        ).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    torch.cuda.empty_cache()
    train_tokenizer(folder, data)


def train_tokenizer(folder: Path, data: Path) -> None:
    """A byte-level tokenizer trained on the rows, so that token counts are like the real ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=12_000, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train([str(data)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
