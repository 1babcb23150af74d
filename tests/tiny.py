"""A random BLOOM of a few thousand parameters and a tokenizer for it, made in code: no download, no file in the
repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BloomConfig, BloomForCausalLM, PreTrainedTokenizerFast

# General text of our own, short: for evaluations of which forgetting is not the question.
PAGES = Path(__file__).parents[1] / "tools" / "seedling" / "pages.txt"
WORDS = [
    "Be kind to the sea. ->: kindness, sea",
    "Time is a slow river, and hope its boat. ->: hope, time",
    "A door left open ->: home",
]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with BLOOM's pre-tokenizer and special ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[^(\s|[.,!?…。，、।۔،])]+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(WORDS * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def make_bloom(
    heads: int = 4, head_dim: int = 8, layers: int = 2, vocabulary: int = 400, seed: int = 0, noise: float = 0.15
) -> BloomForCausalLM:
    """A random BLOOM in float32 whose attention and norms are far from their start, so that mistakes show."""
    torch.manual_seed(seed)
    config = BloomConfig(vocab_size=vocabulary, hidden_size=heads * head_dim, n_head=heads, n_layer=layers)
    model = BloomForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * noise)
    return model.eval()


def save_tiny(folder: Path, **shape: Any) -> Path:
    """A model folder as Transformers saves it."""
    make_bloom(**shape).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
