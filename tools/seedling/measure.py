"""How good is it: bits per byte against the Kneser-Ney 5-gram, and fifty samples to read.

Both models score the same tokens of the same documents: each token of the text and the `</s>` that closes it, beginning
behind a `</s>`, nothing carried over from one document to the next. The student is measured with the weights that
ship, computed in fp32."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .kneser_ney import probabilities
from .marks import marks
from .pack import PAD, ROW, pack
from .student import TrainingForward
from .tokenizer import END, VOCABULARY, documents

LONGEST = ROW - 2


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[np.ndarray]:
    """Ids of each text, pieces of at most 511 tokens; `<unk>` and its like in a text are spelt out."""
    pieces = []
    for ids in tokenizer(list(texts), split_special_tokens=True).input_ids:
        pieces += [np.array(ids[i : i + LONGEST], dtype=np.int64) for i in range(0, len(ids), LONGEST)]
    return pieces


def student_bits(model: Any, pieces: Sequence[np.ndarray], batch_rows: int = 8) -> float:
    """The bits the model needs for the pieces and their ends."""
    device = next(model.parameters()).device
    forward = TrainingForward(model, torch.float32)
    rows = torch.from_numpy(pack([piece.tolist() for piece in pieces], ROW, seed=0).astype(np.int64))
    nats = 0.0
    with torch.no_grad():
        for some in torch.split(rows, batch_rows):
            batch = some.to(device)
            nats += float(forward(batch)) * int((batch[:, 1:] != PAD).sum())
    return nats / math.log(2)


def on_a_grid(weight_OI: torch.Tensor) -> torch.Tensor:
    """Each row rounded to whole steps of a power of two near a 45th of its root mean square: about as far off as int8 by
    rows is (0.7% of it), exact in float16, and ten of its sixteen bits when a wheel is packed."""
    step_O1 = torch.exp2((weight_OI.square().mean(1, keepdim=True).sqrt() / 45).clamp_min(2**-24).log2().round())
    return (weight_OI / step_O1).round() * step_O1


@torch.no_grad()
def load(work: Path, stored: bool) -> Any:
    """The student in fp32, with its weights `stored` as the package holds them or as they were trained."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(work / "student", dtype=torch.float32).eval()
    for parameter in model.parameters() if stored else ():
        parameter.copy_(on_a_grid(parameter) if parameter.ndim == 2 else parameter)
        parameter.copy_(parameter.half())
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def sample(model: Any, tokenizer: Any, count: int, seed: int) -> list[str]:
    """Texts begun behind a `</s>`; temperature 0.8, top-p 0.95, at most 80 tokens. Drawn on the CPU, so that a seed
    means one thing."""
    torch.manual_seed(seed)
    start = torch.full((count, 1), END)
    out = model.cpu().generate(
        start, attention_mask=torch.ones_like(start), max_new_tokens=80, do_sample=True, temperature=0.8, top_p=0.95, top_k=0,
        eos_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    return [str(tokenizer.decode(row[1:], skip_special_tokens=True)) for row in out]


def run(work: Path, wikitext: Path | None, seed: int) -> dict[str, Any]:
    """Write `measure.json` and `samples.txt`, print both models' bits per byte."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    texts = {"held_out": list(documents(work / "heldout.jsonl"))}
    if wikitext is not None:
        texts["wikitext_2"] = [
            line.strip() for line in wikitext.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    pieces = {name: encode_texts(tokenizer, of_name) for name, of_name in texts.items()}
    sizes = {name: sum(len(text.encode()) for text in of_name) for name, of_name in texts.items()}

    model = load(work, stored=True)
    samples = sample(model, tokenizer, 50, seed)
    (work / "samples.txt").write_text(
        "".join(f"{i}. {text}\n\n" for i, text in enumerate(samples, 1)), encoding="utf-8"
    )
    model = load(work, stored=True)
    result: dict[str, Any] = {}
    for name in texts:
        began = time.perf_counter()
        result[name] = {"bytes": sizes[name], "tokens": sum(len(piece) + 1 for piece in pieces[name])}
        result[name]["student_bits_per_byte"] = student_bits(model, pieces[name]) / sizes[name]
        print(
            f"measure: {name}: student {result[name]['student_bits_per_byte']:.4f} bits a byte ({time.perf_counter() - began:.0f} s)",
            flush=True,
        )
    few = pieces["held_out"][:500]
    result["loss_stored_over_trained"] = student_bits(model, few) / student_bits(load(work, stored=False), few)

    began = time.perf_counter()
    corpus = list(documents(work / "train.jsonl"))
    train = encode_texts(tokenizer, [*corpus, *marks(seed, len(corpus))])
    test = [piece for of_name in pieces.values() for piece in of_name]
    bits = -np.log2(probabilities(train, test, VOCABULARY))
    at = 0
    for name, of_name in pieces.items():
        count = sum(len(piece) + 1 for piece in of_name)
        five_gram = float(bits[at : at + count].sum()) / sizes[name]
        at += count
        student = result[name]["student_bits_per_byte"]
        result[name] |= {"five_gram_bits_per_byte": five_gram, "student_is_better_by": 1 - student / five_gram}
        print(
            f"measure: {name}: 5-gram {five_gram:.4f}, student {student:.4f} bits a byte: {1 - student / five_gram:+.1%}"
        )
    print(f"measure: 5-gram over {sum(map(len, train)):,} tokens in {time.perf_counter() - began:.0f} s")
    print(
        f"measure: loss with the stored weights over loss with those trained: {result['loss_stored_over_trained']:.6f}"
    )
    (work / "measure.json").write_text(json.dumps(result, indent=2) + "\n")
    return result
