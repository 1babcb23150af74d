"""The teacher writes, and judges what it wrote: Qwen2.5-Coder-1.5B-Instruct answers the grid of requests, chunk by
chunk, until its time is up.

The teacher is read from a GGUF file. A chunk is 100,000 requests; its answers go to one JSON-lines shard, which appears
under its name only when it is whole. A shard that is there is not written again.

Sayings are asked for in one long turn, a line each ("rivers: A river does not ..."), so that a request costs eight
tokens and not forty. Each of them is then shown to the teacher again: "is it clear, true to life and sensible?" Its lead
of Yes over No is kept with the text, and so is the mean log-probability that it wrote with. The hidden state that it gave
that verdict from goes to `shards/*.npy` (a row for each judged saying, in order): see `taste.py`.

    {"form": "saying", "topics": ["patience", "time"], "text": "Those who ...", "likelihood": -1.9, "sense": 1.3}
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .decoder import Answer, Decoder, Request, Sampling
from .filter import clean
from .gguf_weights import load_qwen2
from .prompts import Prompt, prompts
from .shards import READINGS, read_readings

USER, TEACHER, OVER = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"
SYSTEM = (
    "<|im_start|>system\nYou are a thoughtful writer. You write plain, clear English with everyday words.<|im_end|>\n"
)
EXAMPLES = (  # a small teacher knows what a saying is once it has seen some; none of them is in the sample
    "rivers: A river does not hurry, and still it reaches the sea.",
    "pride, tools: The man who praises his hammer has not yet built a house.",
    "neighbors: Be the neighbor you wish would knock.",
    "bread, morning: The smell of fresh bread gets more people out of bed than any alarm clock.",
    "borrowing, friends: If you lend a friend your umbrella, you will both remember the rain.",
    "school: Children forget the lesson and remember who was kind to them.",
    "cats, humor: My cat believes that the newspaper was invented to keep the table warm.",
    "healing, patience: A broken bone knits in its own time, and so does a broken trust.",
    "cooking, mothers: My mother never measured the salt, and nobody ever asked for more.",
    "trains, waiting: Nobody learns patience faster than a man on an empty platform.",
    "advice, listening: Most people who ask for advice only want someone to sit down with them.",
)
ASK_SAYINGS = (
    "For each line of topics, write one original saying about them, of one or two short sentences: a small true "
    "observation from everyday life, wise or dryly funny, that anyone understands."
)
JUDGED = (  # the doubtful ones were written by the teacher itself
    ("A river does not hurry, and still it reaches the sea.", "Yes"),
    ("The soap that you use is not as important as the soap that you wash with.", "No"),
    ("Children forget the lesson and remember who was kind to them.", "Yes"),
    ("A house is always on, and it never sleeps.", "No"),
    ("Good meals make people angry, but bad meals make them happy.", "No"),
    ("If you lend a friend your umbrella, you will both remember the rain.", "Yes"),
    ("People who lack skill are not good at everything.", "No"),
    ("It is hard to be angry at someone who brings you soup.", "Yes"),
)
ASK_JUDGEMENT = "Is each saying clear, true to life and sensible? Be strict. Answer Yes or No.\n"
SHARED = {
    "saying": SYSTEM + USER + ASK_SAYINGS + OVER + TEACHER + "".join(f"- {line}\n" for line in EXAMPLES),
    "other": SYSTEM + USER,
    "judgement": SYSTEM
    + USER
    + ASK_JUDGEMENT
    + "".join(f"Saying: {text}\nAnswer: {verdict}\n" for text, verdict in JUDGED),
}
LONGEST_REQUEST = 96  # tokens, the opening counted
LENGTH = 416  # of a slot: the longest shared beginning, a request and a saying, or a request and the longest form
STOPS = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
ENGLISH = re.compile(r" ?[A-Za-z]+| ?['’][a-z]{1,2}| ?[0-9]| ?[.,;:!?\"'’“”()—–…-]{1,3}|\n{1,2}| ")
COMMON, KNOWN = (
    30_000,
    100_000,
)  # tokens are numbered by how common they are: up to here any word, up to there plain ones


def load_teacher(gguf: Path, work: Path) -> tuple[Any, Any]:
    """Model and tokenizer: bf16 on a GPU, fp32 on a CPU. The tokenizer is kept in `work`: reading it out of the GGUF
    file takes half a minute."""
    from transformers import AutoTokenizer

    device, dtype = (
        (torch.device("cuda"), torch.bfloat16) if torch.cuda.is_available() else (torch.device("cpu"), torch.float32)
    )
    folder = work / "teacher-tokenizer"
    if not (folder / "tokenizer.json").exists():
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    return load_qwen2(gguf, device, dtype), AutoTokenizer.from_pretrained(folder)


def english(token_texts: Sequence[str]) -> torch.Tensor:
    """Marks the tokens that plain English text needs."""

    def needed(index: int, text: str) -> bool:
        plain = re.fullmatch(" [A-Z]?[a-z]+", text) is not None
        return ENGLISH.fullmatch(text) is not None and (index < COMMON or (index < KNOWN and plain))

    return torch.tensor([needed(index, text) for index, text in enumerate(token_texts)])


def make_decoder(model: Any, tokenizer: Any, slots: int, length: int, sampling: Sampling) -> Decoder:
    """A decoder whose stops are the teacher's special tokens and which writes English."""
    V = model.config.vocab_size
    texts = [tokenizer.decode([i]) for i in range(V)]
    stop_V, kept_V = torch.zeros(V, dtype=torch.bool), english(texts)
    stop_V[[tokenizer.convert_tokens_to_ids(token) for token in STOPS]] = True
    some = [
        text
        for prompt in prompts(0, 0, 5000)
        for text in (f" {prompt.request}", f"{prompt.request} {prompt.opening}", prompt.opening)
    ]
    ours = "\n".join([TEACHER, *SHARED.values(), *some])
    kept_V[tokenizer(ours, add_special_tokens=False).input_ids] = True  # whatever we say to it
    line_break_V = torch.tensor(["\n" in text for text in texts])
    yes, no = (tokenizer.encode(word, add_special_tokens=False)[0] for word in (" Yes", " No"))
    return Decoder(model, slots, length, sampling, stop_V, line_break_V, kept_V | stop_V, (yes, no))


def to_requests(asked: Sequence[Prompt], tokenizer: Any) -> list[Request]:
    """A saying's request is its line of topics, any other's a turn."""
    before = [
        f"- {', '.join(prompt.topics)}:" if prompt.form == "saying" else f"{prompt.request}{OVER}{TEACHER}"
        for prompt in asked
    ]
    openings = [f" {p.opening}" if p.form == "saying" and p.opening else p.opening for p in asked]
    before_ids = tokenizer(before, add_special_tokens=False).input_ids
    opening_ids = tokenizer(openings, add_special_tokens=False).input_ids
    return [
        Request(head + opening, len(head), prompt.max_new, one_line=prompt.form == "saying")
        for prompt, head, opening in zip(asked, before_ids, opening_ids, strict=True)
    ]


def answer_all(decoder: Decoder, requests: Sequence[Request], shared: str, tokenizer: Any) -> dict[int, Answer]:
    """By the request's place; those that are too long or hold a token that is not kept are passed over."""
    fits = [
        i for i, request in enumerate(requests)
        if len(request.token_ids) <= LONGEST_REQUEST and all(token in decoder.inner for token in request.token_ids)
    ]  # fmt: skip
    decoder.share(tokenizer(shared, add_special_tokens=False).input_ids)
    return {fits[answer.index]: answer for answer in decoder.answers([requests[i] for i in fits])}


def judge(decoder: Decoder, texts: Sequence[str], tokenizer: Any) -> dict[int, Answer]:
    """For each saying an answer whose `lead` is how far Yes leads No, in nats, with the state it was given from."""
    shown = tokenizer([f"Saying: {text}\nAnswer:" for text in texts], add_special_tokens=False).input_ids
    decoder.keeps_states = True
    answers = answer_all(
        decoder, [Request(ids, len(ids), 1, one_line=True) for ids in shown], SHARED["judgement"], tokenizer
    )
    decoder.keeps_states = False
    return answers


def inputs_of(judged: Sequence[Answer]) -> np.ndarray:
    """float16 `[N, D + 1]`: each verdict's state, and the verdict behind it."""
    return np.array([np.append(answer.state_D, answer.lead) for answer in judged], dtype=np.float16)


def answer_chunk(decoder: Decoder, asked: Sequence[Prompt], tokenizer: Any) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The rows of a chunk: the long forms first, then the sayings behind their examples, then what is thought of them;
    and the states `[judged sayings, D]`."""
    rows: list[dict[str, Any]] = []
    for kind in ("other", "saying"):
        mine = [prompt for prompt in asked if (prompt.form == "saying") == (kind == "saying")]
        answers = answer_all(decoder, to_requests(mine, tokenizer), SHARED[kind], tokenizer)
        texts = tokenizer.batch_decode([answer.token_ids for answer in answers.values()], skip_special_tokens=True)
        for (index, answer), text in zip(answers.items(), texts, strict=True):
            prompt = mine[index]
            row = {
                "form": prompt.form,
                "topics": prompt.topics,
                "text": text.strip().split("\n")[0] if kind == "saying" else text.strip(),
                "likelihood": round(answer.likelihood, 3),
            }
            rows.append(row)
    sayings = [row for row in rows if row["form"] == "saying"]
    sayings = [row for row in sayings if clean("saying", row["text"])[0]]  # what will be dropped needs no judgement
    judged = sorted(judge(decoder, [row["text"] for row in sayings], tokenizer).items())
    for index, answer in judged:
        sayings[index]["sense"] = round(answer.lead, 3)
    return rows, inputs_of([answer for _, answer in judged])


def write_shard(path: Path, rows: Sequence[dict[str, Any]], states: np.ndarray) -> None:
    np.save(path.with_suffix(".npy"), states)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.rename(path)


def run(work: Path, gguf: Path, seconds: float, seed: int, slots: int, chunk_size: int, max_chunks: int = 1000) -> None:
    """Write shards until `seconds` have passed (no chunk is begun after that) or `max_chunks` exist."""
    folder = work / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    model, tokenizer = load_teacher(gguf, work)
    decoder = make_decoder(model, tokenizer, slots, LENGTH, Sampling(temperature=0.8, min_p=0.1, presence=0.2))
    kept, ready = len(decoder.outer), time.perf_counter() - began
    print(f"teacher: ready in {ready:.1f} s; {slots} slots of {LENGTH} tokens, {kept:,} of its tokens", flush=True)

    if READINGS.exists():
        readings = list(read_readings(READINGS))
        judged = judge(decoder, readings, tokenizer)
        inputs = np.full((len(readings), len(decoder.norm_D) + 1), np.nan, dtype=np.float16)
        inputs[sorted(judged)] = inputs_of([answer for _, answer in sorted(judged.items())])
        np.save(work / "readings.npy", inputs)  # of those that hold a token that is not kept: not a number
    began, texts = time.perf_counter(), 0
    with ThreadPoolExecutor(1) as writer:
        pending: list[Future[None]] = []
        for chunk in range(max_chunks):
            path = folder / f"{chunk:04d}.jsonl"
            if path.exists():
                continue
            if time.perf_counter() - began > seconds:
                break
            torch.manual_seed(seed * 100_003 + chunk)
            steps = decoder.steps
            rows, states = answer_chunk(decoder, list(prompts(seed, chunk, chunk_size)), tokenizer)
            pending.append(writer.submit(write_shard, path, rows, states))
            texts, took = texts + len(rows), time.perf_counter() - began
            print(f"teacher: {path.name} {texts:,} texts in {took:.1f} s, {decoder.steps - steps:,} steps", flush=True)
        for future in pending:
            future.result()
    print(f"teacher: {texts:,} texts in {time.perf_counter() - began:.1f} s", flush=True)
