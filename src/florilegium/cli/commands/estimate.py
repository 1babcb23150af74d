"""`florilegium estimate`: what a run will take, before anything is downloaded."""

from __future__ import annotations

import argparse
from dataclasses import replace

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.flags import add_config_flags, config_from_flags, given_settings
from florilegium.cli.loading import RowCounter, loading_pytorch
from florilegium.config import TrainConfig
from florilegium.data import Rows, read_rows_of
from florilegium.errors import UsageError

SETTINGS = (
    "data", "model", "parallel", "pipeline_stages",
    "template", "direction", "text_column", "tags_column", "tags_separator", "join_tag_columns", "bits", "epochs", "max_steps",
    "batch_size", "lora_rank", "target_modules", "max_length", "memory", "gpu_memory_limit", "micro_batch_tokens",
    "kernels", "device", "revision", "held_out", "split_by", "split_on", "seed", "skip_bad_rows", "keep_checkpoints",
)  # fmt: skip
MOST_TEXTS = 65_536


def add(commands: Commands) -> None:
    estimate = add_command(
        commands,
        "estimate",
        "show what a run will take before anything is downloaded: memory, time, disk",
        "florilegium estimate quotes.jsonl --model bigscience/bloom-7b1 --gpu 24",
        "florilegium estimate --model bigscience/bloom-3b --gpu T4 --bits 4",
        "florilegium estimate --model bigscience/bloom-7b1 --gpu H100 --for generate --batch 64",
        "florilegium estimate --model bigscience/bloom --gpu H200 --gpus 2",
        usage="florilegium estimate [DATA] [--model MODEL] [--gpu NAME|GB] [options]",
    )
    add_gpu(estimate)
    estimate.add_argument("--gpus", type=int, metavar="N", help="how many such cards share the work (1)")
    estimate.add_argument(
        "--for", dest="purpose", choices=("train", "generate"), default="train", help="what to estimate"
    )
    estimate.add_argument("--batch", type=int, metavar="N", help="texts at once, with --for generate (1)")
    add_config_flags(estimate, only=SETTINGS)


def add_gpu(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpu", metavar="NAME|GB", help="the card, e.g. H100, RTX4090, or its memory, e.g. 24; default: this machine"
    )


def run(flags: argparse.Namespace) -> None:
    texts, gpus = _texts_and_gpus(flags)
    config = replace(config_from_flags(flags), skip_bad_rows=True)
    counter = RowCounter(config.data)
    rows = read_rows_of(config, progress=counter)
    counter.done()
    tell(config, rows, flags, texts, gpus)


def _texts_and_gpus(flags: argparse.Namespace) -> tuple[int, int]:
    """Texts at once (0: of training) and cards. Raises UsageError for the one that says nothing about the other."""
    if flags.purpose == "train":
        if flags.batch is not None:
            raise UsageError(
                "--batch is how many texts are written at once, with --for generate",
                "Use --batch-size for the rows of a training step",
            )
        return 0, 1 if flags.gpus is None else flags.gpus
    if flags.gpus is not None:
        raise UsageError("--gpus is for training: texts are estimated on one card", "Leave --gpus out")
    texts = 1 if flags.batch is None else flags.batch
    if not 1 <= texts <= MOST_TEXTS:
        raise UsageError(f"--batch is {texts}", f"It takes a number from 1 to {MOST_TEXTS:,}")
    return texts, 1


def tell(config: TrainConfig, rows: Rows, flags: argparse.Namespace, texts: int = 0, gpus: int = 1) -> None:
    """Makes the estimate and prints it; `texts`: of writing so many at once; `gpus`: how many cards train."""
    with loading_pytorch():
        from florilegium.cli.estimation import show_estimate
        from florilegium.runs.estimate import estimate
        from florilegium.runs.estimate_generation import generation_needs
    found = estimate(config, rows, flags.gpu, gpus, config.bits if "bits" in given_settings(flags) else None)
    needs = generation_needs(found.skeleton, found.config, found.gpu, found.memory.available, texts) if texts else None
    show_estimate(found, needs, flags.json)
