"""The live adapter asked, and what was exported asked the same by Transformers."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch

from florilegium.errors import ModelError, ResourceError
from florilegium.export.base_weights import BaseWeights
from florilegium.export.probe import Answers, Probe, ask
from florilegium.export.subject import Subject
from florilegium.model import Base, choose_device, load_adapter, load_base
from florilegium.model.card_memory import free_memory
from florilegium.model.load_errors import model_errors, quietly
from florilegium.runs.export_probe import make_probe, sample_probe
from florilegium.runs.recorder import ProgressView
from florilegium.storage.platform import available_memory

ROOM = 0.7  # of the memory that is free: what the check's model may take


@dataclass(frozen=True)
class Live:
    """The live adapter's answers to a probe, and how they were got."""

    answers: Answers
    probe: Probe
    dtype: torch.dtype
    device: torch.device


def ask_live(subject: Subject, weights: BaseWeights, data: str | None, device_name: str, view: ProgressView) -> Live:
    """Loads base and adapter in as many bits as there is memory for, asks, and lets them go. `data` says where the
    run's rows lie now."""
    device = choose_device(device_name)
    base = _loaded(weights, device, view, "the live adapter, its base")
    probe = make_probe(subject, base.tokenizer, data)
    tuned = load_adapter(base, subject.adapter, other_weights=subject.other_weights)
    with quietly():
        answers = ask(tuned, probe)
    dtype = base.model.dtype
    del tuned, base
    gc.collect()
    return Live(answers, probe, dtype, device)


def ask_base(weights: BaseWeights, device_name: str, view: ProgressView) -> Live:
    """The same of a base alone, on the bundled quotes."""
    base = _loaded(weights, choose_device(device_name), view, "the base itself")
    probe = sample_probe(base.tokenizer)
    with quietly():
        answers = ask(base.model, probe)
    return Live(answers, probe, base.model.dtype, base.device)


def _loaded(weights: BaseWeights, device: torch.device, view: ProgressView, who: str) -> Base:
    bits = _bits_that_fit(weights, device)
    view.say(f"asking {who} in {bits} bits")
    return load_base(str(weights.folder), bits=bits, device=device, progress=view.loading)


def answers_of(folder: Path, live: Live, dtype: torch.dtype | str) -> Answers:
    """What stands in `folder`, loaded by Transformers in `dtype` ("auto": the stored one, as anybody loads it)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with model_errors("what was exported"), quietly():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if [tokenizer(text)["input_ids"] for text in live.probe.prompts] != live.probe.prompt_ids:
            raise ModelError("the exported tokenizer gives other tokens than the adapter's", "Please report it")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map={"": str(live.device)})
        return ask(model.eval(), live.probe)


def _bits_that_fit(weights: BaseWeights, device: torch.device) -> int:
    """32 where there is memory for it, else 16. Raises ResourceError where neither fits."""
    numbers = sum(parameter.numel() for parameter in weights.model.parameters())
    free = _free_memory(device)
    for bits in (32, 16):
        if numbers * bits // 8 < ROOM * free:
            return bits
    raise ResourceError(
        f"the check loads the model, which takes {numbers * 2 / 2**30:.1f} GiB in 16 bits, and {free / 2**30:.1f} are free",
        "Export on a larger machine, or unchecked with --no-check",
    )


def _free_memory(device: torch.device) -> int:
    return free_memory() if device.type == "cuda" else available_memory() or 1 << 62
