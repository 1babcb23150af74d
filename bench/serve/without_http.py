"""The same texts without HTTP: our engine as `florilegium generate` makes it, or a plain `generate` of Transformers.

python -m bench.serve.without_http engine|stock ADAPTER DEVICE          a side of `bench/serve/http.py`"""

from __future__ import annotations

import sys
import time
from typing import Any

from bench.serve.rounds import Ask, Round, Written, answer, rounds_asked


def engine(adapter: str, device: str, slots: int, length: int) -> None:
    from florilegium.generation.engine import make_engine, ready
    from florilegium.generation.tuned import load

    tuned = load(adapter, device=device)
    with ready(tuned.loaded):
        own = make_engine(tuned.loaded, slots=slots, capacity=length)
        for round in rounds_asked():
            answer(written_by(own, tuned, round))


def written_by(engine: Any, tuned: Any, round: Round) -> Written:
    from florilegium.generation import Request
    from florilegium.generation.text_pieces import decoded
    from florilegium.tokens import text_ids

    tokenizer, settings = tuned.base.tokenizer, {"max_new_tokens": round.tokens}
    waiting = [
        [
            (ask, Request(*text_ids(tokenizer, [ask.prompt]), 0, tuned.sampling(seed=ask.seed, **settings)))
            for ask in asks
        ]
        for asks in round.clients
    ]
    under_way: dict[int, tuple[Ask, Any, list[Any], float, list[float], list[int]]] = {}
    ended = []

    def ask_next(asks: list[Any]) -> None:
        if asks:
            ask, request = asks.pop(0)
            under_way[engine.add(request)] = (ask, request, asks, time.monotonic(), [], [])

    began = time.monotonic()
    for asks in waiting:
        ask_next(asks)
    while engine.busy:
        events, now = engine.step(), time.monotonic()
        for event in events:
            text = under_way[event.request]
            text[4].append(now)
            text[5].extend([] if event.token_id is None else [event.token_id])
            if event.ended:
                ended.append(under_way.pop(event.request))
                ask_next(text[2])
    written = Written(began, time.monotonic())
    for ask, request, _, sent, times, ids in ended:
        text_of_all = decoded(tokenizer, [*request.token_ids, *ids])
        written.add(sent, times, len(ids), ask.seed, text_of_all.removeprefix(ask.prompt))
    return written


def stock(adapter: str, device: str) -> None:
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    from florilegium.seedling import FOLDER

    name = PeftConfig.from_pretrained(adapter).base_model_name_or_path
    folder = FOLDER if name == "seedling" else name
    options: dict[str, Any] = {"dtype": torch.float32}
    if device == "cuda":
        eight = BitsAndBytesConfig(load_in_8bit=True)
        options = {"dtype": torch.bfloat16, "device_map": {"": "cuda:0"}, "quantization_config": eight}
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder, **options), adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    for round in rounds_asked():
        answer(written_by_stock(model, tokenizer, round, device))


def written_by_stock(model: Any, tokenizer: Any, round: Round, device: str) -> Written:
    """Each client's requests one after another, those of all clients in one batch."""
    import torch

    began = time.monotonic()
    found = []
    for asks in zip(*round.clients, strict=True):
        sent, times = time.monotonic(), list[float]()

        def note(ids: Any, scores: Any, times: list[float] = times, **_: Any) -> Any:
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.monotonic())
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        batch = tokenizer([ask.prompt for ask in asks], return_tensors="pt", padding=True).to(model.device)
        out = model.generate(
            **batch, max_new_tokens=round.tokens, do_sample=True, temperature=0.7, top_p=0.9, top_k=0,
            pad_token_id=tokenizer.pad_token_id, stopping_criteria=[note],
        )[:, batch["input_ids"].shape[1] :].tolist()  # fmt: skip
        found += [(ask, sent, times, row) for ask, row in zip(asks, out, strict=True)]
    written = Written(began, time.monotonic())
    for ask, sent, times, row in found:
        count = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
        written.add(sent, times[: count + 1], count, ask.seed, "")
    return written


def main() -> None:
    side, adapter, device = sys.argv[1:4]
    if side == "engine":
        engine(adapter, device, *map(int, sys.argv[4:6]))
    else:
        stock(adapter, device)


if __name__ == "__main__":
    main()
