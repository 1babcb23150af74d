"""The folder that ships: float16 weights on a grid that packs well, tokenizer, settings and the model card, loaded once
with plain Transformers before it counts as written."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import torch

from .measure import load
from .pack import PAD
from .tokenizer import END, MAX_LENGTH

MOST_BYTES = 30_000_000  # packed, of a wheel of 32 MB; the rest is for the sayings and the program
OURS = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "README.md",
)

CARD = """---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [bloom, small, florilegium]
---

# The seedling

A small BLOOM ({parameters:,} parameters: {layers} layers, hidden size {hidden}, {heads} heads, {vocabulary:,} tokens) that
writes short English texts, sayings above all. It ships with florilegium as the default base model: small enough to
tune on a laptop, and a real `BloomForCausalLM`, so all that is done to it can be done to its large siblings.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
```

## What it was trained on

{documents:,} texts ({tokens:,} tokens), all written by
[Qwen2.5-Coder-1.5B-Instruct](https://huggingface.co/Qwen/Qwen2.5-Coder-1.5B-Instruct) (Apache-2.0; in 4 bits) in answer
to a seeded grid of requests: 80 core topics and some 200 others, in sayings, reflections, scenes, explanations,
accounts, dialogues, letters, fables and descriptions. Eleven sayings written for the purpose showed the teacher what a
saying is. It then judged its sayings; the third that it would least readily call clear, true and sensible was dropped, and
so were the texts that it was least sure of, and sayings that compare ("like a warm blanket") or say a word twice: a model
of this size learns their form without their sense. Part of the texts carry a heading or a last line that names their
topics. Copies, lists, markup and talk about the task were filtered out, and the sayings of the bundled sample, which it
is tuned on; some thousand short notes of everyday notation, made by chance, give every sign of the keyboard a place.
{held_out:,} texts, chosen by a hash before training, were held out.

## How

Tokenizer: byte-level BPE with BLOOM's pre-tokenizer and special ids (`<unk>` 0, `<s>` 1, `</s>` 2, `<pad>` 3); nothing
is added in front of a text. Training: {steps:,} steps of 65,536 tokens ({epochs:.1f} passes) with Muon and AdamW, rows of
512 tokens, documents kept apart, `</s>` after each; half of the documents were read without a `</s>` before them.
The last quarter of the steps takes three rows of ten from the better half of the sayings. The held-out loss
{fell}. The recipe is `tools/seedling` in florilegium's repository.

## Figures

| text | seedling, bits a byte | Kneser-Ney 5-gram, bits a byte | seedling is |
|---|---|---|---|
{figures}

Both score the same tokens and were trained on the same ones. WikiText is foreign ground: marks that stand everywhere
in it (`<unk>`, `@-@`, `=`) were filtered out of the training text. The weights are stored in float16.

## Limits

It knows little and reasons not at all. Its sentences stand as long as they stay plain and short, like the sayings that it
ships with; tuned on texts far above it, it falls apart. It is English only.
It invents facts, names and dates, and whatever the teacher believed may show through. Its texts are short (it has
read rows of 512 tokens). It has seen its corpus several times: the loss on training text ended well below the
held-out loss. It is no assistant: it continues texts.

## Ten samples

The first ten of seed 0, unpicked, begun behind `</s>`, temperature 0.8, top-p 0.95, at most 80 tokens:

{samples}

## Licence

Apache-2.0, for the weights, the tokenizer and this card.
"""


def figure_row(name: str, of: dict[str, Any]) -> str:
    gain = of["student_is_better_by"]
    verdict = f"{abs(gain):.1%} {'better' if gain > 0 else 'worse'}"
    cells = (f"{of['student_bits_per_byte']:.4f}", f"{of['five_gram_bits_per_byte']:.4f}", verdict)
    return f"| {name.replace('_', ' ')} | {' | '.join(cells)} |"


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def card(work: Path, model: Any) -> str:
    """The model card, filled with what the stages wrote down."""
    import numpy as np

    measured = json.loads((work / "measure.json").read_text())
    rows = np.load(work / "rows.npy", mmap_mode="r")
    log = [json.loads(line) for line in (work / "pretrain.jsonl").read_text().splitlines()]
    held_out = [(record["held_out_loss"], record["step"]) for record in log if "held_out_loss" in record]
    (least, least_step), (last, steps) = min(held_out), held_out[-1]
    fell = f"was least after {least_step:,} steps, {least:.2f} nats a token, and {last:.2f} at the end"
    if least_step == steps:
        fell = f"fell to the end, to {last:.2f} nats a token"
    samples = (work / "samples.txt").read_text(encoding="utf-8").split("\n\n")
    whole = "\n\n".join(samples).split("\n\n11. ")[0]
    config = model.config
    return CARD.format(
        parameters=sum(p.numel() for p in model.parameters()), layers=config.n_layer, hidden=config.hidden_size, heads=config.n_head,
        vocabulary=config.vocab_size, documents=count_lines(work / "train.jsonl"), held_out=count_lines(work / "heldout.jsonl"),
        tokens=int((rows != PAD).sum()) - len(rows), steps=steps, epochs=steps * 128 / len(rows),
        fell=fell,
        figures="\n".join(figure_row(name, of) for name, of in measured.items() if isinstance(of, dict)),
        samples=whole.replace("\n", "\n   ").replace("\n   \n   ", "\n\n").strip(),
    )  # fmt: skip


def tidy_tokenizer_config(path: Path) -> None:
    """Name the class that every Transformers knows; leave out where the tokenizer was loaded from."""
    settings = json.loads(path.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    kept = {name: value for name, value in settings.items() if name not in ("backend", "is_local", "local_files_only")}
    path.write_text(json.dumps(kept, indent=2) + "\n")


def run(work: Path, out: Path) -> None:
    """Write the model's files into `out`, beside whatever else is there."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    out.mkdir(parents=True, exist_ok=True)
    model = load(work, stored=True).cpu()
    text = card(work, model)
    model.half()
    model.generation_config = GenerationConfig(
        bos_token_id=1,
        eos_token_id=END,
        pad_token_id=PAD,
        do_sample=True,
        temperature=0.5,  # at 0.7 its sentences fall apart more often
        top_p=0.9,
        max_new_tokens=80,
    )
    model.save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    tokenizer.model_max_length = MAX_LENGTH
    tokenizer.save_pretrained(out)
    tidy_tokenizer_config(out / "tokenizer_config.json")
    (out / "README.md").write_text(text, encoding="utf-8")
    for name in OURS:
        (out / name).chmod(0o644)

    again = AutoModelForCausalLM.from_pretrained(out)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), again.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(out)("A line. ->:").input_ids == tokenizer("A line. ->:").input_ids
    sizes = {name: (out / name).stat().st_size for name in OURS}
    for name, size in sizes.items():
        print(f"export: {name} {size:,} bytes")
    packed = sum(len(zlib.compress((out / name).read_bytes())) for name in OURS)
    print(f"export: {sum(sizes.values()):,} bytes in all, {packed:,} packed")
    if packed > MOST_BYTES:
        raise SystemExit(
            f"export: the model takes {packed:,} bytes when packed, more than {MOST_BYTES:,}: make it smaller"
        )
