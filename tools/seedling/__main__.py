"""`python -m tools.seedling STAGE --work DIR`: the recipe from the command line."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

STAGES = ("prompts", "teacher", "readings", "taste", "candidates", "filter", "tokenizer", "pretrain", "measure", "general",
          "export")  # fmt: skip
PACKAGE_FOLDER = Path(__file__).parents[2] / "src" / "florilegium" / "seedling"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.seedling",
        description="Train the seedling from nothing: a corpus, a tokenizer, a small BLOOM.",
    )
    parser.add_argument("stage", choices=(*STAGES, "all"))
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        help="folder for everything that is made; a rerun goes on with what is there",
    )
    parser.add_argument("--teacher", type=Path, help="Qwen2.5-Coder-1.5B-Instruct, Q4_K_M, as GGUF")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--teacher-seconds", type=float, default=600, help="no chunk is begun after this time")
    parser.add_argument(
        "--slots", type=int, default=4096, help="answers written at once; 4096 take 52 GiB of GPU memory"
    )
    parser.add_argument("--chunk", type=int, default=100_000, help="requests in a chunk")
    parser.add_argument("--max-chunks", type=int, default=1000, help="stop when this many shards exist")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes for the filter")
    parser.add_argument("--epochs", type=float, default=5, help="passes over the corpus, unless the time is up before")
    parser.add_argument("--pretrain-seconds", type=float, default=300)
    parser.add_argument("--batch-rows", type=int, default=128, help="rows of 512 tokens a step")
    parser.add_argument("--wikitext", type=Path, help="a text file to measure on as well, line by line")
    parser.add_argument("--out", type=Path, default=PACKAGE_FOLDER, help="where export writes the model")
    return parser.parse_args(arguments)


def show_prompts(options: argparse.Namespace) -> None:
    from .prompts import prompts

    options.work.mkdir(parents=True, exist_ok=True)
    path = options.work / "prompts.txt"
    path.write_text(
        "".join(f"{prompt.form}: {prompt.request} | {prompt.opening}\n" for prompt in prompts(options.seed, 0, 1000)),
        encoding="utf-8",
    )
    print(f"prompts: the first 1,000 of chunk 0 are in {path}")


def teach(options: argparse.Namespace) -> None:
    from . import teacher

    if options.teacher is None:
        raise SystemExit(
            "the teacher stage needs --teacher FILE.gguf: Qwen2.5-Coder-1.5B-Instruct in Q4_K_M (Apache-2.0)"
        )
    teacher.run(
        options.work,
        options.teacher,
        options.teacher_seconds,
        options.seed,
        options.slots,
        options.chunk,
        options.max_chunks,
    )


def draw_readings(options: argparse.Namespace) -> None:
    from . import taste

    taste.run_readings(options.work, options.seed)


def learn_taste(options: argparse.Namespace) -> None:
    from . import taste

    taste.run(options.work)


def sieve(options: argparse.Namespace) -> None:
    from . import filter

    filter.run(options.work, options.seed, options.workers, PACKAGE_FOLDER / "sayings.jsonl")


def make_tokenizer(options: argparse.Namespace) -> None:
    from . import tokenizer

    tokenizer.run(options.work)


def train(options: argparse.Namespace) -> None:
    from . import pack, pretrain

    pack.run(options.work, options.seed)
    pretrain.run(options.work, options.seed, options.epochs, options.pretrain_seconds, options.batch_rows)


def judge(options: argparse.Namespace) -> None:
    from . import measure

    measure.run(options.work, options.wikitext, options.seed)


def propose(options: argparse.Namespace) -> None:
    from . import candidates

    candidates.run(options.work, options.seed)


def write_general(options: argparse.Namespace) -> None:
    from . import general

    general.run(options.work, Path(__file__).parent / "pages.txt", options.out.parent / "evaluation" / "general.txt")


def ship(options: argparse.Namespace) -> None:
    from . import export

    export.run(options.work, options.out)


ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = dict(
    zip(
        STAGES,
        (
            show_prompts,
            teach,
            draw_readings,
            learn_taste,
            propose,
            sieve,
            make_tokenizer,
            train,
            judge,
            write_general,
            ship,
        ),
        strict=True,
    )  # fmt: skip
)


def main() -> None:
    options = parse()
    for stage in STAGES if options.stage == "all" else (options.stage,):
        began = time.perf_counter()
        ACTIONS[stage](options)
        print(f"{stage}: {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
