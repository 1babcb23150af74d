"""What the seedling learned from its sayings: the bars it was built to pass.

    python -m bench.train.seedling [--run latest] [--json] [--read FILE]

Takes a run of `florilegium train` with its defaults, and prints: how many of 200 quotes from nothing parse and stop by
themselves; tag micro-F1 on the held-out sayings, of the tuned model, of the untuned one with the same prompt, and of
the most frequent tags; how many of the 200 share eight words in a row with a training saying; and the base's loss in
int8 against float32.

`--read` writes one text for each of the seeds 0 to 99, unpicked, at the default temperature, for two people to read.
Their rule: the quote alone is judged, not its tags. It is *grammatical* when a careful reader would change no word or
mark, and *meaningful* when it says one definite thing that is true, wise or funny to somebody who knows nothing else:
no contradiction, no empty circle ("time is time"), no comparison that holds nowhere. In doubt, no."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

TEXTS = 200


def tags_of(tuned: Any, quotes: list[dict[str, Any]], use_base: bool) -> list[list[str]]:
    rows = tuned.generate(
        [q["quote"] for q in quotes], tags=True, temperature=0.0, max_new_tokens=30, use_base=use_base
    )
    return [list(row.quote["tags"]) if row.quote else [] for row in rows]


def loss(bits: int, quotes: list[dict[str, Any]]) -> float:
    import torch

    from florilegium import Template, encode, load_base, pack, token_losses
    from florilegium.tokens import PackPlan

    base = load_base("seedling", bits=bits, device=torch.device("cpu"), compute="float32")
    from florilegium import fast
    from florilegium.model import ForwardOptions, LoadedModel

    fast.install_kernels(base.model, ("quantized-linear",) if bits == 8 else ())
    # The sayings alone: the untuned seedling has never seen the tags' form.
    examples = encode(base.tokenizer, Template.from_text("{quote}"), quotes).examples
    total = count = 0.0
    with torch.no_grad():
        for batch in pack(examples, PackPlan()):
            total += float(token_losses(LoadedModel(base, base.model), batch, ForwardOptions(("chunked-loss",))).sum())
            count += batch.num_targets
    return total / count


def to_read(tuned: Any) -> str:
    """One numbered text a seed, with its tags."""
    texts = [tuned.generate("", n=1, seed=seed)[0].text for seed in range(100)]
    return "".join(f"{seed:>3}. {text}\n" for seed, text in enumerate(texts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="latest")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--show", type=int, default=20, help="texts to print, unpicked")
    parser.add_argument(
        "--read", type=Path, metavar="FILE", help="write a hundred texts to be judged, and nothing else"
    )
    arguments = parser.parse_args()
    import florilegium
    from florilegium.config import make_config, read_config
    from florilegium.evaluation import most_frequent_tags, tag_f1
    from florilegium.storage.run_directory import find_run

    run = find_run(arguments.run)
    if arguments.read:
        arguments.read.write_text(to_read(florilegium.load(run)), encoding="utf-8")
        return
    config = make_config(read_config(Path(run) / "config.yaml"))
    rows = florilegium.read_rows(config.data, config.template)
    training, held = florilegium.split_rows(rows.quotes, config.held_out, config.seed)
    held_quotes: list[Any] = [rows.quotes[i] for i in held]
    tuned = florilegium.load(run)

    texts = tuned.generate("", n=TEXTS, seed=0)
    wanted = [list(q["tags"]) for q in held_quotes]
    frequent = most_frequent_tags([list(rows.quotes[i]["tags"]) for i in training])
    int8, full = loss(8, held_quotes), loss(32, held_quotes)
    figures = {
        "held_out_sayings": len(held_quotes),
        "parse_and_stop": sum(t.quote is not None and bool(t.quote["tags"]) and t.finished for t in texts) / TEXTS,
        "tag_f1_tuned": tag_f1(tags_of(tuned, held_quotes, False), wanted),
        "tag_f1_untuned": tag_f1(tags_of(tuned, held_quotes, True), wanted),
        "tag_f1_most_frequent": tag_f1([frequent] * len(wanted), wanted),
        "copies": sum(t.novel is False for t in texts) / TEXTS,
        "loss_int8": int8,
        "loss_float32": full,
        "int8_over_float32": int8 / full,
    }
    if arguments.json:
        print(json.dumps({**figures, "texts": [t.text for t in texts]}))
        return
    for name, value in figures.items():
        print(f"{name:<24}{value:.4f}" if isinstance(value, float) else f"{name:<24}{value}")
    print()
    for text in texts[: arguments.show]:
        print(f"- {text.text}")


if __name__ == "__main__":
    main()
