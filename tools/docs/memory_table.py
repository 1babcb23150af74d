"""The reference page of what fits which card, by the estimate that the program itself makes.

    python -m tools.docs.memory_table            writes docs/reference/memory.md
    python -m tools.docs.memory_table --check    leaves with 1 if it is older than the program

The sizes of BLOOM are those of its config.json files on the Hub."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from florilegium.config import TrainConfig
from florilegium.model.gpus import find_gpu
from florilegium.model.skeleton import Skeleton, read_skeleton
from florilegium.runs.estimate_memory import memory_on

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "memory.md"
SIZES = {  # width, layers, heads
    "560m": (1024, 24, 16),
    "1b1": (1536, 24, 16),
    "1b7": (2048, 24, 16),
    "3b": (2560, 30, 32),
    "7b1": (4096, 30, 32),
    "176B": (14336, 70, 112),
}
CARDS = (8, 12, 16, 24, 40, 48, 80, 141)
TOKENS, GIB = 1024, 2**30
HEAD = f"""# What fits which card

*Written by `python -m tools.docs.memory_table`, with what `florilegium estimate` computes; do not edit.*

Peak GPU memory in GiB of steps of {TOKENS:,} tokens, LoRA rank 16, as `--memory auto` would train on a card of so many
GB of which nothing is used yet: **c** with bfloat16 copies of weights (how many is chosen to fill the card), **f** all
activations kept, **l** recomputed. "-" does not fit. Where the fused blocks do not run (16 bits)
it is an estimate, marked ~, and the better of `--memory fast` (f) and `--memory lean` (l) that fits is shown.

`florilegium estimate quotes.jsonl --model bigscience/bloom-7b1 --gpu 24` says the same for your rows and your card, with
time, download and disk.

"""


def page() -> str:
    head = "| model | bits | LoRA on | " + " | ".join(f"{card} GB" for card in CARDS) + " |"
    lines = [head, "|" + "---|" * (3 + len(CARDS))]
    with tempfile.TemporaryDirectory() as folder:
        for name, (width, layers, heads) in SIZES.items():
            place = Path(folder) / name
            place.mkdir()
            sizes = {"hidden_size": width, "n_layer": layers, "n_head": heads, "vocab_size": 250880}
            (place / "config.json").write_text(json.dumps({"model_type": "bloom", **sizes}))
            for targets in ("auto", "all-linear"):
                skeleton = read_skeleton(TrainConfig(model=str(place), target_modules=targets))
                for bits in (8, 4, 16):
                    config = TrainConfig(model=str(place), target_modules=targets, bits=bits)
                    on = "`query_key_value`" if targets == "auto" else "every linear"
                    cells = " | ".join(_cell(skeleton, config, card) for card in CARDS)
                    lines.append(f"| bloom-{name} | {bits} | {on} | {cells} |")
    return HEAD + "\n".join(lines) + "\n"


def _cell(skeleton: Skeleton, config: TrainConfig, gigabytes: int) -> str:
    card = find_gpu(str(gigabytes))
    for memory in ("auto", "lean"):
        settings = TrainConfig(**{**vars(config), "memory": memory})
        found = memory_on(skeleton, settings, card, [TOKENS], 256)
        if not found.fits:
            continue
        size = f"{found.needed / GIB:.1f}"
        if found.plan is None:
            return f"~{size} {'f' if memory == 'auto' else 'l'}"
        kind = "c" if found.plan.copies else "f" if found.plan.full == skeleton.num_layers else "l"
        return f"{size} {kind}"
    return "-"


def main() -> int:
    new = page()
    if "--check" in sys.argv[1:]:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
