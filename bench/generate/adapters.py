"""Texts of many adapters in one step: the rate of 1, 8, 64 and 100 of them beside one adapter's, as a table.

    python -m bench.generate.adapters [--size 7b1] [--bits 8] [--target-modules all-linear] [--context 100]
    TRITON_INTERPRET=1 python -m bench.generate.adapters --size tiny      without a GPU: that it runs, not how fast

A base of random weights, adapters of random numbers (r=16), greedy texts at that context. 64 texts, and 100, so that each
of a hundred adapters writes one. *alone* is a decoder that holds one adapter, as `florilegium generate` makes it; the
others hold a hundred, and so many of them write. Rounds alternate; the median round counts. Also printed: whether the
text of the first adapter is the same in every row of the table (its first token and that after all steps), and the bytes
of the adapters."""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.common.gpu_model import SIZES, random_base
from bench.generate.steps import with_adapter

PEERS = (1, 8, 64, 100)


@dataclass
class Case:
    """`rows` texts of `adapters` adapters by `decoder`; `texts` are what the first rows wrote in the last round."""

    decoder: Any
    rows: int
    adapters: int
    alone: bool
    milliseconds: list[float] = field(default_factory=list)
    texts: list[list[int]] = field(default_factory=list)

    @property
    def ms(self) -> float:
        return statistics.median(self.milliseconds)

    def run(self, context: int, steps: int) -> None:
        """A round: the prompts are read, then `steps` steps timed."""
        from florilegium.config import SamplingSettings

        decoder, slots = self.decoder, list(range(self.rows))
        generator = torch.Generator().manual_seed(0)
        prompts = torch.randint(4, 500, (self.rows, context), generator=generator).tolist()
        greedy, limit = SamplingSettings(temperature=0.0), decoder.capacity - context
        places = [slot % self.adapters for slot in slots]
        decoder.admit(
            slots, [limit] * self.rows, [torch.zeros(limit)] * self.rows, [greedy] * self.rows, places, prompts
        )
        for slot, prompt in enumerate(prompts):
            rows, most = [(slot, token, i) for i, token in enumerate(prompt)], decoder.rows[-1]
            for at in range(0, context, most):  # a long prompt is read in pieces
                piece = rows[at : at + most]
                decoder.step(piece, [len(piece) - 1] if at + most >= context else [])
        rows = [(slot, decoder.NEXT, decoder.NEXT) for slot in slots]
        self.texts = [[token] for token in decoder.step(rows, slots).tokens()]
        began = time.perf_counter()
        for _ in range(steps):
            step = decoder.step(rows, slots)
        last = step.tokens()
        self.milliseconds.append((time.perf_counter() - began) / steps * 1000)
        self.texts = [[*text, token] for text, token in zip(self.texts, last, strict=True)]


def decoder_of(model: Any, rows: int, places: int, capacity: int) -> Any:
    """With `places` adapters of random numbers; the first is the same in every decoder."""
    from florilegium.fast.decoding.decoder import Decoder
    from florilegium.model.families import head_weight
    from florilegium.model.families.bloom import bloom_model

    head = head_weight(model).detach()
    on_gpu = head.is_cuda
    decoder = Decoder(
        bloom_model(model), head if on_gpu else head.float(), slots=rows, capacity=capacity, eos=-5, max_rows=max(64, rows),
        places=places, cuda_graphs=on_gpu,
    )  # fmt: skip
    kept = [p for name, p in model.named_parameters() if "lora_B" in name]
    first = [p.detach().clone() for p in kept]
    for seed in range(1, places):
        torch.manual_seed(seed)
        for parameter in kept:
            parameter.data.normal_(0, 0.02)
        decoder.add_adapter(bloom_model(model))
    for parameter, value in zip(kept, first, strict=True):
        parameter.data.copy_(value)
    return decoder


def table(model: Any, arguments: argparse.Namespace) -> None:
    capacity = -(-(arguments.context + arguments.steps + 8) // 64) * 64
    print(
        "| texts | adapters | ms a step | tokens/s | of one adapter alone | same first text |\n|---|---|---|---|---|---|"
    )
    for rows in arguments.rows:
        alone, shared = (decoder_of(model, rows, places, capacity) for places in (1, max(arguments.adapters)))
        cases = [Case(alone, rows, 1, alone=True)]
        cases += [Case(shared, rows, n, alone=False) for n in arguments.adapters if n <= rows]
        for _ in range(arguments.rounds + 1):
            for case in cases:
                case.run(arguments.context, arguments.steps)
        for case in cases:
            case.milliseconds.pop(0)  # that of compiling and recording
            share = "" if case.alone else f"{cases[0].ms / case.ms:.1%}"
            same = "" if case.alone else "yes" if case.texts[0] == cases[0].texts[0] else "NO"
            name = "alone" if case.alone else case.adapters
            print(f"| {rows} | {name} | {case.ms:.3f} | {rows / case.ms * 1000:,.0f} | {share} | {same} |", flush=True)
        pool = [one.lora for one in shared.adapters.linears if one.lora is not None]
        held = sum(tensor.nbytes for lora in pool for tensor in (lora.a_PRK, lora.b_PNR))
        print(f"\n{shared.adapters.places} adapters take {held / 2**20:,.1f} MiB\n", flush=True)
        del cases, alone, shared, pool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b1")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--target-modules", default="auto")
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 100])
    parser.add_argument("--adapters", type=int, nargs="+", default=PEERS)
    parser.add_argument("--context", type=int, default=100)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU, interpreted"
    print(
        f"{where}, torch {torch.__version__}, bloom-{arguments.size}, {arguments.bits} bits, lora on {arguments.target_modules}\n"
    )
    table(with_adapter(random_base(arguments.size, arguments.bits), arguments.target_modules), arguments)


if __name__ == "__main__":
    main()
