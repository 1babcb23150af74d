"""Every family of models beside the stock recipe on this processor: does it train the same, write the same, how fast.

    python -m bench.train.families [NAME ...] [--steps 3] [--markdown]

Random models of two layers, 256 wide, in float32, with LoRA of rank 8, on rows as short as quotes are (a median of 30
tokens). Stock is Transformers and PEFT as a careful user runs them: rows of like length in batches of 4, accumulated to
16, no row padded further than its batch. Both sides start from the same adapter. *loss* is the largest relative
distance between the losses of a step over all steps, *texts* how many of three greedy texts are those of Transformers'
own `generate`. Speed counts tokens for each second of a core, of all cores together: what holds on a shared machine."""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel
from transformers.utils import logging

from bench.train.vs_stock import RATE, ROWS_A_STEP, same_adapter
from florilegium.config import SamplingSettings, make_config
from florilegium.generation import Request, StockDecoder, collect, write_batch
from florilegium.model import ForwardOptions, LoadedModel
from florilegium.model.base import Base
from florilegium.model.document_packing import Packing, find_packing
from florilegium.model.families import family_of
from florilegium.runs.recorder import NullView
from florilegium.runs.row_lengths import CPU_BATCH_TOKENS
from florilegium.runs.row_packing import CPU_MASKED_BATCH_TOKENS
from florilegium.tokens import Example, PackPlan
from florilegium.training import Trainer, make_lr_scheduler, make_optimizer
from florilegium.training.loop import training_step
from tests.model.small_families import FAMILIES, make_model

VOCABULARY = 8_000
TIMES_WIDER = 8
GREEDY = replace(SamplingSettings(), temperature=0.0, max_new_tokens=16, repetition_penalty=1.0)
EOS = 2
NO_TEXTS = ("RecurrentGemma",)  # Transformers 5.17 itself cannot generate with it
Step = Callable[[list[Example]], float]


@dataclass(frozen=True)
class Row:
    """One family: how its rows go through the model, and what came of it beside stock (tokens a core second)."""

    name: str
    rows: str
    loss_distance: float
    texts: str
    stock: float
    ours: float

    def cells(self) -> list[str]:
        ratio = f"{self.ours / self.stock:.2f}"
        return [
            self.name,
            self.rows,
            f"{self.loss_distance:.0e}",
            self.texts,
            f"{self.stock:,.0f}",
            f"{self.ours:,.0f}",
            ratio,
        ]


HEAD = ["family", "rows", "loss", "texts", "stock", "ours", "ours/stock"]
WIDTHS = (20, 11, 8, 7, 9, 9, 12)


def steps_of_rows(steps: int) -> list[list[Example]]:
    """Rows with lengths as those of english_quotes: log-normal, a median of 30 tokens, one in fifty above 130."""
    generator = torch.Generator().manual_seed(5)
    sizes = (
        (torch.randn(ROWS_A_STEP * (steps + 1), generator=generator) * 0.7).exp().mul(30).clamp(4, 200).long().tolist()
    )
    drawn = [torch.randint(4, VOCABULARY, (size,), generator=generator).tolist() for size in sizes]
    examples = [Example([*ids, EOS], [True] * (len(ids) + 1)) for ids in drawn]
    return [examples[start : start + ROWS_A_STEP] for start in range(0, len(examples), ROWS_A_STEP)]


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Both sides are to compute the same; each family keeps its own chances elsewhere."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def with_adapter(model: PreTrainedModel) -> PeftModel:
    targets = family_of(model.config.model_type).lora_targets(model)
    adapted = get_peft_model(model, LoraConfig(r=8, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"))
    same_adapter(adapted)
    assert isinstance(adapted, PeftModel)
    return adapted


def stock_step(model: PeftModel) -> Step:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)

    def step(examples: list[Example]) -> float:
        total, loss_sum = sum(len(example.token_ids) - 1 for example in examples), 0.0
        by_length = sorted(examples, key=lambda example: len(example.token_ids))
        for start in range(0, len(by_length), 4):
            rows = [torch.tensor(example.token_ids) for example in by_length[start : start + 4]]
            tokens_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=3)
            mask_BT = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            labels_BT = tokens_BT.masked_fill(mask_BT == 0, -100)
            given = {"input_ids": tokens_BT, "attention_mask": mask_BT, "labels": labels_BT, "use_cache": False}
            loss = model(**given, num_items_in_batch=total).loss
            loss.backward()
            loss_sum += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss_sum

    return step


def our_step(name: str, model: PeftModel) -> tuple[Step, str]:
    """A step as a run takes it, and how documents of a row are told apart."""
    config = make_config({"lora_dropout": 0.0, "warmup_ratio": 0.0, "lr_schedule": "constant"})
    base = Base(model.get_base_model(), None, name, 32, torch.device("cpu"), torch.float32, "", "")  # type: ignore[arg-type]
    loaded = LoadedModel(base, model)
    documents = Packing("") if base.packs else find_packing(loaded)
    limit = CPU_BATCH_TOKENS if base.packs else CPU_MASKED_BATCH_TOKENS
    optimizer = make_optimizer(model, config, RATE)
    trainer = Trainer(
        loaded,
        config,
        ForwardOptions(("chunked-loss",), document_mask=documents.mask),
        PackPlan(separate=not (base.packs or documents.mask), batch_tokens=limit),
        optimizer,
        make_lr_scheduler(optimizer, config, 100),
    )
    way = "own" if base.packs else documents.mask or "padded"
    return lambda examples: training_step(trainer, examples, NullView()).loss, way


def timed(step: Step, steps: list[list[Example]]) -> tuple[list[float], float]:
    """The losses, and tokens a core second of all steps but the first."""
    losses = [step(steps[0])]
    began = time.process_time()
    losses += [step(examples) for examples in steps[1:]]
    worked = time.process_time() - began
    return losses, sum(len(example.token_ids) for examples in steps[1:] for example in examples) / worked


def texts_like_stock(name: str, model: PreTrainedModel) -> str:
    base = Base(model, None, name, 32, torch.device("cpu"), torch.float32, "", "")  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(4, VOCABULARY, (size,), generator=generator).tolist() for size in (3, 11, 7)]
    requests = [Request(ids, number, GREEDY) for number, ids in enumerate(prompts)]
    ours = collect(write_batch(StockDecoder(LoadedModel(base, model)), requests, EOS), len(requests))
    equal = 0
    for prompt, text in zip(prompts, ours, strict=True):
        given = torch.tensor([prompt])
        written = model.generate(given, do_sample=False, max_new_tokens=16, eos_token_id=EOS, pad_token_id=3)  # type: ignore[operator]
        equal += list(text.token_ids) == [token for token in written[0, len(prompt) :].tolist() if token != EOS]
    return f"{equal} of {len(prompts)}"


def compared(name: str, steps: list[list[Example]]) -> Row:
    model = without_dropout(make_model(name, times_wider=TIMES_WIDER, vocabulary=VOCABULARY))
    with torch.no_grad():
        texts = "-" if name in NO_TEXTS else texts_like_stock(name, model)
    stock_losses, stock = timed(stock_step(with_adapter(copy.deepcopy(model)).train()), steps)
    step, way = our_step(name, with_adapter(model).train())
    losses, ours = timed(step, steps)
    distance = max(abs(a - b) / b for a, b in zip(losses, stock_losses, strict=True))
    return Row(name, way, distance, texts, stock, ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FAMILIES)}; none: all")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    steps = steps_of_rows(arguments.steps)

    def show(cells: list[str]) -> None:
        line = "".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()
        print(f"| {' | '.join(cells)} |" if arguments.markdown else line, flush=True)

    show(HEAD)
    if arguments.markdown:
        show(["---"] * len(HEAD))
    for name in arguments.names or FAMILIES:
        show(compared(name, steps).cells())


if __name__ == "__main__":
    main()
