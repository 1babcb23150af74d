"""A tuned model in your hands: load a run or an adapter folder, ask it for quotes.

tuned = florilegium.load("latest")
for row in tuned.generate("The sea", n=3):
    print(row.quote)
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florilegium.config import SamplingSettings
from florilegium.data import Template
from florilegium.data.novelty import NoveltyIndex
from florilegium.errors import UsageError
from florilegium.generation import Generated, generate_texts, stream_text
from florilegium.generation.about import AboutResult, quotes_about
from florilegium.generation.generate import check_prompts
from florilegium.generation.telling import Tell
from florilegium.model import (
    Base,
    LoadedModel,
    LoadProgress,
    check_bits,
    choose_device,
    fast_paths,
    load_adapter,
    load_base,
    openings_of,
    read_facts,
    rehearse_adapter,
    template_of,
)
from florilegium.model.adapter_origin import base_name, origin_notes
from florilegium.model.shared_base import Bases
from florilegium.storage.run_directory import RunDirectory, adapter_folder, find_run

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

NOVEL_TRIES = 10


@dataclass
class Tuned:
    """A base with an adapter on it, and the template it was trained with."""

    loaded: LoadedModel
    template: Template
    first_words: dict[str, int]
    novelty: NoveltyIndex | None = None
    notes: tuple[str, ...] = ()  # what to know before using it: an adapter that names another base, or changes nothing

    @property
    def base(self) -> Base:
        return self.loaded.base

    def sampling(self, **given: Any) -> SamplingSettings:
        """The base's own way of drawing texts, with what is `given`. Raises UsageError for a number out of range."""
        return replace(self.base.sampling, **given)

    @property
    def model(self) -> PreTrainedModel | PeftModel:
        """The base with the adapter on it: PEFT's own class."""
        return self.loaded.model

    def generate(
        self,
        prompt: str | Sequence[str] = "",
        n: int = 1,
        *,
        tags: bool = False,
        use_base: bool = False,
        novel_only: bool = False,
        settings: SamplingSettings | None = None,
        **sampling: Any,
    ) -> list[Generated]:
        """`n` texts for each prompt, which may be one opening, several, or nothing; with `tags` a prompt is a whole
        quote that wants its tags, and is nobody's news (`novel` is None). `use_base` switches the adapter off. With
        `novel_only` a text that copies a training row, or does not parse, is drawn again, at most ten times; what is
        still a copy then is left out. `sampling` are fields of SamplingSettings (temperature, ...);
        what is not given is the base's.

        Raises UsageError for settings out of range, and with `novel_only` where there is no record of the training rows
        or chance has no say (temperature 0); DataError for a prompt that the template cannot hold."""
        settings = settings or self.sampling(**sampling)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if n < 1:
            raise UsageError(f"-n is {n}", "It takes 1 or more")
        texts = [self.prompt_text(p, tags=tags) for p in prompts for _ in range(n)]
        check_prompts(self.loaded, texts)
        if novel_only:
            self._check_novel_only(settings)
        with self.loaded.adapter_off() if use_base else contextlib.nullcontext():
            rows = self.complete(texts, settings)
            if not novel_only:
                return [replace(row, novel=None) for row in rows] if tags else rows
            for again in range(1, NOVEL_TRIES):
                waiting = [i for i, row in enumerate(rows) if not row.novel]
                # Row numbers beyond those of the rounds before: other draws, and still the same for the same seed.
                drawn = (
                    self.complete([texts[i] for i in waiting], settings, first_row=again * len(texts))
                    if waiting
                    else []
                )
                for i, row in zip(waiting, drawn, strict=True):
                    rows[i] = row
        return [row for row in rows if row.novel]

    def beside_base(
        self, prompts: Sequence[str], n: int = 1, *, tags: bool = False, settings: SamplingSettings | None = None
    ) -> list[tuple[Generated, Generated]]:
        """`n` texts for each prompt, each with what the base model writes from the same beginning with the same
        draws."""
        texts = [self.prompt_text(p, tags=tags) for p in prompts for _ in range(n)]
        rows = self.complete(texts, settings or self.sampling(), with_base=True)
        return list(zip(rows[: len(texts)], rows[len(texts) :], strict=True))

    def stream(
        self,
        prompt: str = "",
        *,
        tags: bool = False,
        use_base: bool = False,
        row: int = 0,
        settings: SamplingSettings | None = None,
        **sampling: Any,
    ) -> Generator[str, None, bool]:
        """One text in pieces as it is written; the pieces together are `generate(prompt, n)[row].text`. Returns whether
        the model stopped by itself. Closing it stops the work."""
        settings = settings or self.sampling(**sampling)
        text = self.prompt_text(prompt, tags=tags)
        check_prompts(self.loaded, [text])
        return stream_text(self.loaded, text, settings, first_words=self.first_words, adapter=not use_base, row=row)

    def as_generated(self, text: str, finished: bool, *, tags: bool = False) -> Generated:
        """A text that was streamed, read as `generate` reads its own."""
        row = Generated(text, self.template.parse(text), finished)
        return replace(row, novel=None if tags else self._is_novel(row))

    def about(
        self, tags: Sequence[str], n: int = 1, *, settings: SamplingSettings | None = None, **sampling: Any
    ) -> AboutResult:
        """`n` quotes with all of these tags: asked for by them, where the model was trained tags first, else drawn and
        chosen (`about.py`). Raises UsageError where the template has no list of tags."""
        return quotes_about(self, tags, n, settings or self.sampling(**sampling))

    def warm_up_note(self) -> str:
        """What a person who waits should know: on a GPU the first tokens of a process wait for kernels."""
        waits = self.base.device.type == "cuda" and "fast-decode" in self.loaded.kernels
        return " (compiling kernels first: about 15 s the first time, 1 s later)" if waits else ""

    def prompt_text(self, prompt: str, *, tags: bool = False) -> str:
        """The text that is given to the model for `prompt`."""
        prompt = prompt.strip()
        columns = self.template.columns
        if tags and self.template.begins_with_tags:
            raise UsageError(
                "--label asks for the tags of a quote, and this model was trained tags first",
                "Ask it for a quote: florilegium generate --about love; or train with --direction both",
            )
        if self.template.is_chat and not tags:
            return self.template.prompt({columns[0]: prompt}) if prompt else ""
        if not tags:
            return self.template.prompt({columns[0]: prompt}, open=True) if prompt else self.template.prompt({})
        if not prompt or len(columns) != 2:
            raise UsageError(
                "--label needs a quote, and a template of two columns", 'Type: florilegium generate --label "Be kind."'
            )
        return self.template.prompt({columns[0]: prompt})

    def complete(
        self,
        texts: Sequence[str],
        settings: SamplingSettings,
        first_row: int = 0,
        with_base: bool = False,
        tell: Tell | None = None,
    ) -> list[Generated]:
        """What the model writes on from `texts`, which are as it is given them (`prompt_text`); see
        `generation.generate_texts`."""
        written = generate_texts(
            self.loaded,
            self.template,
            texts,
            settings,
            first_words=self.first_words,
            first_row=first_row,
            with_base=with_base,
            tell=tell,
        )
        return [replace(row, novel=self._is_novel(row)) for row in written]

    def _check_novel_only(self, settings: SamplingSettings) -> None:
        if self.novelty is None:
            raise UsageError(
                "--novel-only needs the run's folder, which holds the training n-gram index; this is only the adapter",
                "Name the run with --run",
            )
        if settings.temperature == 0:
            raise UsageError("--novel-only cannot resample at temperature 0", "Leave --temperature or --novel-only out")

    def _is_novel(self, row: Generated) -> bool | None:
        if self.novelty is None or row.quote is None:
            return None
        return self.novelty.is_novel(str(row.quote[self.template.main_column]))

    def adapter_off(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the model is its base."""
        return self.loaded.adapter_off()


def load(
    run: str | Path = "latest",
    *,
    model: str | None = None,
    bits: int | None = None,
    device: str = "auto",
    kernels: str = "auto",
    bases: Bases | None = None,
    progress: LoadProgress | None = None,
) -> Tuned:
    """The tuned model of `run`: `latest`, a run's folder or name, or an adapter folder. `model` names its base if that
    has moved; adapters that are loaded with the same `bases` share their base's weights; `progress` is told how many bytes of
    those are read, and of how many.

    On the CPU a quantised base computes in float32: a few tokens at a time are bound by memory, and scores do not tie.
    Raises UsageError when there is no such run, ModelError when base and adapter do not fit."""
    folder = find_run(str(run))
    adapter = adapter_folder(folder)
    facts = read_facts(adapter)
    name = base_name(adapter, facts, model)
    where = choose_device(device)
    revision = facts.revision if model is None else None
    held = check_bits(name, revision, bits, facts.bits or 8)
    compute = "float32" if where.type == "cpu" and held in (8, 4) else "auto"
    names = fast_paths.kernels_for_texts(kernels, where, held)
    rehearse_adapter(adapter, name, revision, held)
    get_base = bases.get if bases else load_base
    base = get_base(name, bits=held, device=where, compute=compute, revision=revision, progress=progress)
    tuned_model = load_adapter(base, adapter)
    loaded = LoadedModel(base, tuned_model, names)
    fast_paths.refuse_for_texts(kernels, loaded)
    fast_paths.install_kernels(tuned_model, names)
    index = RunDirectory(adapter.parent).training_ngrams
    return Tuned(
        loaded,
        template_of(facts),
        openings_of(facts),
        NoveltyIndex.load(index) if index.is_file() else None,
        origin_notes(adapter, facts, name, tuned_model),
    )
