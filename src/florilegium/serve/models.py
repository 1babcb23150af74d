"""Which models are served, by name: each fine-tuned one by its run's name, and its base beside it.

A run is loaded when somebody first asks for it. At most `most` are held; the one that was asked for longest ago leaves, and
those on one base share its weights (`model/shared_base.py`). Loading happens in the worker's thread, where alone a model
may be touched."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from florilegium.errors import FlorilegiumError, ResourceError
from florilegium.generation.tuned import Tuned
from florilegium.model import read_facts
from florilegium.model.adapter_facts import FACTS, AdapterFacts
from florilegium.model.adapter_origin import base_name
from florilegium.model.shared_base import Bases
from florilegium.serve.api_errors import ApiError
from florilegium.serve.worker import Worker
from florilegium.storage.file_state import FileState, state_of_file
from florilegium.storage.library_errors import is_out_of_memory
from florilegium.storage.run_directory import RunDirectory, adapter_folder

Load = Callable[[Path, Bases], Tuned]
Files = tuple[FileState | None, ...]
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", FACTS)


@dataclass(frozen=True)
class ServedModel:
    """A name and what writes under it; the base is the same model with its adapter off. `capacity`: tokens of a text at
    most."""

    name: str
    run: Path
    tuned: Tuned
    adapter: bool
    capacity: int


@dataclass(frozen=True)
class KnownModel:
    """A model that may be asked for, loaded or not. A base has no `parent`, and the run that it comes along with."""

    name: str
    run: Path
    parent: str | None
    template: str | None
    created: int

    def as_object(self) -> dict[str, object]:
        """As /v1/models lists it."""
        return {
            "id": self.name, "object": "model", "created": self.created, "owned_by": "florilegium",
            "root": self.name, "parent": self.parent, "template": self.template,
        }  # fmt: skip


@dataclass(frozen=True)
class _Held:
    """A run in memory, and the files that it was loaded from."""

    tuned: Tuned
    files: Files


class Models:
    """`runs` are served by name, and with `folder` all finished runs in it, also those that finish later."""

    def __init__(
        self, worker: Worker, load: Load, runs: Sequence[Path], *, folder: Path | None = None, most: int = 4
    ) -> None:
        self.worker, self.load, self.runs, self.folder, self.most = worker, load, tuple(runs), folder, most
        self.bases = Bases()
        self.held: OrderedDict[Path, _Held] = OrderedDict()
        self.loading = asyncio.Lock()
        self.lately: dict[str, KnownModel] = {}
        self.lately_at = -math.inf

    def known(self) -> dict[str, KnownModel]:
        """By name, the first is the default: the runs that were named, then the newest. Two of one name: the first."""
        found: dict[str, KnownModel] = {}
        for run in self._runs():
            with contextlib.suppress(FlorilegiumError, OSError):  # removed, or being written: the others are served
                for model in _models_of(run, self._base_of(run)):
                    found.setdefault(model.name, model)
        return found

    def _known_lately(self, again: bool = False) -> dict[str, KnownModel]:
        """`known`, at most a second old: looking at the disk is a tenth of a short request."""
        now = time.monotonic()
        if again or now - self.lately_at > 1:
            self.lately, self.lately_at = self.known(), now
        return self.lately

    def find(self, name: str | None) -> KnownModel:
        """Raises ApiError (404) for a name that is not served."""
        known = self._known_lately()
        if name is None and self.folder is not None:
            known = self._known_lately(again=True)  # a run that has finished since may be the newest now
        wanted = next(iter(known.values()), None) if name is None else known.get(name)
        if wanted is None or not os.path.exists(wanted.run):
            known = self._known_lately(again=True)
            wanted = next(iter(known.values()), None) if name is None else known.get(name)
        if wanted is None:
            there = ", ".join(known) or "none yet: train one first"
            raise ApiError(404, "no such model", f"There are: {there}", param="model", code="model_not_found")
        return wanted

    async def get(self, name: str | None) -> ServedModel:
        """Loaded. Raises ApiError (404) for a name that is not served, and what loading it raises."""
        wanted = self.find(name)
        is_adapter, run = wanted.parent is not None, wanted.run
        if not is_adapter:  # any adapter that is in memory will do for its base
            there = [path for path in reversed(self.held) if self._current(path)]
            run = next((path for path in there if self._base_of(path) == wanted.name), run)
        tuned = await self._tuned(run)
        return ServedModel(wanted.name, run, tuned, is_adapter, self.worker.capacity(tuned.loaded))

    def open(self, run: Path) -> None:
        """Loads a run before anybody asks. Raises ResourceError where its engine does not fit."""
        self.held[run] = self.worker.call(partial(self._load, run)).result()

    async def _tuned(self, run: Path) -> Tuned:
        async with self.loading if self._current(run) is None else contextlib.nullcontext():
            if held := self._current(run):
                self.held.move_to_end(run)
                return held.tuned
            if run in self.held:  # trained anew, or replaced: texts under way end as they began
                self._leave(run)
            while len(self.held) >= self.most:
                self._leave()
            while True:
                try:
                    self.held[run] = await asyncio.wrap_future(self.worker.call(partial(self._load, run)))
                    return self.held[run].tuned
                except FlorilegiumError as error:
                    if not isinstance(error, ResourceError) or not self.held:
                        # where it lies is nobody's business
                        told = [part.replace(str(run), run.name) for part in (error.cause, error.fix)]
                        raise ApiError(500, *told, code="model_not_loaded") from None
                    self._leave()

    def _current(self, run: Path) -> _Held | None:
        """The run as it is held, while its files are those that it was loaded from."""
        held = self.held.get(run)
        return held if held and held.files == _files_of(run) else None

    @property
    def on_gpu(self) -> bool:
        return any(held.tuned.base.device.type == "cuda" for held in self.held.values())

    async def release(self) -> None:
        """Lets go of all models, which are loaded again when somebody asks."""
        async with self.loading:
            while self.held:
                self._leave()

    def _leave(self, run: Path | None = None) -> None:
        """That run, or the one that was asked for longest ago."""
        held = self.held.pop(run or next(iter(self.held)))
        self.worker.retire(held.tuned.loaded)
        self.bases.keep_only({one.tuned.base.name for one in self.held.values()})

    def _load(self, run: Path) -> _Held:
        """In the worker's thread."""
        files = _files_of(run)  # before they are read: what changes in between is seen at the next request
        try:
            tuned = self.load(run, self.bases)
            self.worker.host(tuned.loaded)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ResourceError("the engine does not fit in memory", "Lower --max-length or --slots") from None
        return _Held(tuned, files)

    def _runs(self) -> Iterator[Path]:
        yield from self.runs
        if self.folder is not None and self.folder.is_dir():
            found = [path for path in self.folder.iterdir() if RunDirectory(path).has_adapter]
            yield from sorted(found, key=_adapter_time, reverse=True)

    def _base_of(self, run: Path) -> str:
        """The base's name without the path to it; empty where the adapter does not say."""
        if held := self._current(run):
            return shown_name(held.tuned.base.name)
        folder = adapter_folder(run)
        with contextlib.suppress(FlorilegiumError):
            return shown_name(base_name(folder, _facts(folder), None))
        return ""


def _files_of(run: Path) -> Files:
    """What a run is loaded from, as it lies there now. A run that was trained anew or replaced has other files."""
    folder = run / "adapter" if (run / "adapter").exists() else run
    return tuple(state_of_file(folder / name) for name in ADAPTER_FILES)


def _adapter_time(run: Path) -> float:
    try:
        return RunDirectory(run).adapter.stat().st_mtime
    except OSError:  # it was there a moment ago
        return 0.0


def shown_name(base: str) -> str:
    """Folders are named without the path to them."""
    return Path(base).name if Path(base).is_absolute() or base.startswith(".") else base


def _models_of(run: Path, base: str) -> list[KnownModel]:
    """A fine-tuned model under its run's name, then its base."""
    folder = adapter_folder(run)
    name = folder.resolve().parent.name if folder.name == "adapter" else folder.resolve().name
    name = name if name != base else f"{name}-tuned"
    created = int((folder / "adapter_config.json").stat().st_mtime)
    tuned = KnownModel(name, run, base or "unknown", _facts(folder).template, created)
    return [tuned, KnownModel(base, run, None, None, created)] if base else [tuned]


def _facts(adapter: Path) -> AdapterFacts:
    """What the adapter says of itself; empty where that is damaged."""
    path = adapter / FACTS
    return _facts_of(adapter, path.stat().st_mtime_ns) if path.is_file() else AdapterFacts()


@lru_cache(1024)
def _facts_of(adapter: Path, changed: int) -> AdapterFacts:
    """Asked at every request, so read once for each time that the file was changed."""
    with contextlib.suppress(FlorilegiumError):
        return read_facts(adapter)
    return AdapterFacts()
