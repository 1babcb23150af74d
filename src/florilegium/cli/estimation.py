"""`florilegium estimate` and `train --dry-run` for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from florilegium.cli.screen import json_line, on_screen, print_line
from florilegium.errors import ResourceError, clock, counted
from florilegium.runs.estimate import Estimate
from florilegium.runs.estimate_advice import gibibytes, needed_text, what_would_fit
from florilegium.runs.estimate_generation import GenerationNeeds, what_would_be_written
from florilegium.runs.estimate_offload import Streamed
from florilegium.runs.estimate_stages import Cards
from florilegium.runs.plan_text import STORED_AS, describe_kept


def show_estimate(found: Estimate, generation: GenerationNeeds | None, as_json: bool) -> None:
    """Prints it. Raises ResourceError where it does not fit, with what would."""
    if as_json:
        print_line(json_line({**found.to_json(), **({"generation": generation.to_json()} if generation else {})}))
    else:
        for name, text in _generation_lines(found, generation) if generation else _lines(found):
            print_line(on_screen(f"{name:<9} {text}".rstrip(), indent=10))
    if generation is not None and not generation.fits:
        raise ResourceError(
            f"{counted(generation.texts, 'text')} at once {'does' if generation.texts == 1 else 'do'} not fit: "
            f"{_more_than(generation.needed, generation.available, found)}",
            what_would_be_written(found.skeleton, found.config, found.gpu, generation.available, generation.texts),
        )
    if generation is None and not found.memory.fits:
        raise ResourceError(
            f"{found.skeleton.name} does not fit: {_more_than(found.memory.needed, found.memory.available, found)}",
            what_would_fit(found.options, found.memory.available, found.config.gpu_memory_limit, found.gpu),
        )


def _more_than(needed: int, available: int, found: Estimate) -> str:
    lacks = gibibytes(needed - available)
    return f"{gibibytes(needed)} is needed, {lacks} more than the {gibibytes(available)} of {found.device} that a run may take"


def _model_lines(found: Estimate) -> Iterator[tuple[str, str]]:
    skeleton, config = found.skeleton, found.config
    base = skeleton.count.total - skeleton.count.trained
    yield "model", f"{skeleton.name}: {base:,} parameters, {skeleton.num_layers} blocks of width {skeleton.width:,}"
    yield "download", _download(found)
    yield (
        "adapter",
        f"LoRA rank {config.lora_rank} on {', '.join(skeleton.adapter_on)}: trains {skeleton.count.trained:,} "
        f"parameters ({100 * skeleton.count.share:.3f}%)",
    )


def _lines(found: Estimate) -> Iterator[tuple[str, str]]:
    yield from _model_lines(found)
    counted_by = "" if found.tokens_counted else ", by their bytes: the tokenizer is not here"
    yield (
        "data",
        f"{counted(found.num_rows, 'training row')} of about {found.tokens_per_row:.0f} tokens{counted_by}",
    )
    yield "memory", _memory(found)
    if found.cards is not None:
        yield "", _cards(found.cards)
    if found.memory.streamed is not None:
        yield "", _streamed(found.memory.streamed)
    yield "", _weights(found)
    yield "plan", _plan(found)
    yield "disk", f"{megabytes(found.disk)} for the run's folder"
    for number, option in enumerate(found.options):
        fits = "fits" if option.needed <= found.memory.available else "does not fit"
        yield (
            "others" if number == 0 else "",
            f"--bits {option.bits} --memory {option.memory}: {needed_text(option)}, {fits}",
        )


def _weights(found: Estimate) -> str:
    bits, unquantised = found.config.bits, found.skeleton.unquantised
    weights = f"{STORED_AS[bits]} weights {gibibytes(found.skeleton.base_bytes(bits))}"
    if bits in (8, 4) and unquantised:
        return f"{weights}, {gibibytes(unquantised)} of them in 16 bits: bitsandbytes does not quantise these modules"
    return weights


def _streamed(streamed: Streamed) -> str:
    """Where the blocks lie, and what that costs."""
    there = f"{gibibytes(streamed.host_bytes)} of main memory for the blocks"
    if not streamed.copied_bytes:
        return f"{there}, all of which come back to the card"
    copied = f"{there}; {streamed.copied_bytes / 1e9:.1f} GB are copied to the card forward and back"
    if not streamed.tokens_per_second:
        return f"{copied}, at a rate that is not known: name the card (--gpu H100)"
    return f"{copied}, which by its stated link allows {streamed.tokens_per_second:,.0f} tokens/s"


def _download(found: Estimate) -> str:
    size = found.skeleton.download
    if size.total == size.here:
        return f"nothing: its {megabytes(size.total)} are here"
    about = "" if size.known else "about "
    here = f", {megabytes(size.here)} of it here already" if size.here else ""
    return f"{about}{megabytes(size.total)}{here}"


def _memory(found: Estimate) -> str:
    memory = found.memory
    there = f"{gibibytes(memory.needed)} of {gibibytes(memory.available)} on {found.device}"
    layers = memory.layers or found.skeleton.num_layers
    if memory.plan is None:
        kind = "about " if found.gpu else "of main memory, about "
        return f"{kind}{there}; not planned to the byte, without fused blocks"
    return f"{there}: {describe_kept(memory.plan, layers)}"


def _cards(cards: Cards) -> str:
    """What each of several needs."""
    if not cards.stages:
        return f"on each of {cards.number}: a copy of the model, and its share of a step"
    each = (f"blocks {stage} {gibibytes(needed)}" for stage, needed in zip(cards.stages, cards.needed, strict=True))
    chains = cards.number // len(cards.stages)
    kind = "a pipeline" if chains == 1 else f"{chains} pipelines of {len(cards.stages)}"
    return f"that is the fullest of {cards.number}, {kind}: {', '.join(each)}"


def _plan(found: Estimate) -> str:
    config = found.config
    passes = (
        f"{config.epochs:g} {'epoch' if config.epochs == 1 else 'epochs'} = "
        if config.epochs and not config.max_steps
        else ""
    )
    steps = f"{passes}{counted(found.num_steps, 'step')} of {counted(config.batch_size, 'quote')}"
    if found.seconds is None or found.step_seconds is None or found.beside_seconds is None:
        return f"{steps}; its time is not known: name the card (--gpu H100) for an estimate"
    source = "from a matmul timed on this CPU" if found.rate_is_measured else "from the card's stated rate"
    beside = f"{clock(found.beside_seconds)} for held-out rows and texts"
    return f"{steps}, about {clock(found.seconds)} ({_seconds(found.step_seconds)} a step, {source}; {beside})"


def _seconds(seconds: float) -> str:
    """Two digits, and of more than a hundred all."""
    return f"{seconds:.2g} s" if seconds < 99.5 else f"{seconds:,.0f} s"


def _generation_lines(found: Estimate, needs: GenerationNeeds) -> Iterator[tuple[str, str]]:
    yield from _model_lines(found)
    yield (
        "memory",
        f"{gibibytes(needs.needed)} of {gibibytes(needs.available)} on {found.device} for {counted(needs.texts, 'text')} at once, "
        f"{gibibytes(needs.cache)} of it keys and values",
    )
    if needs.tokens_per_second is not None:
        yield "rate", f"about {needs.tokens_per_second:,.0f} tokens/s in all, by the card's stated bandwidth"


def megabytes(size: int) -> str:
    """In the units that downloads and disks are told in."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
