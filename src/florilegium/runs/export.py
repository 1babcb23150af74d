"""`florilegium export RUN --to FORM`: the tuned model in a form that other programs run, checked before it has a name.

    1. the live adapter on its 16-bit base answers the probe (`export/probe.py`)
    2. .DIR.tmp/ is written from base and adapter, tensor by tensor
    3. what was written is loaded again and answers the same probe
    4. the verdict goes into export.json and README.md, and the folder gets its name

Outside the tolerance of its type the folder is removed: nothing is left that looks finished. The steps before 4 leave
only a hidden folder that the next export to the same place removes."""

from __future__ import annotations

import gc
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from florilegium.errors import ModelError, ResourceError, UsageError
from florilegium.export.base_weights import BaseWeights
from florilegium.export.merge import Merge
from florilegium.export.merged_folder import merged_bytes, write_merged
from florilegium.export.probe import Answers, Probe, ask
from florilegium.export.subject import Subject, read_subject
from florilegium.export.verdict import Verdict, judge_merged
from florilegium.runs.cards import export_card
from florilegium.runs.export_probe import make_probe
from florilegium.runs.recorder import Silent, View
from florilegium.storage.atomic_files import disk_errors
from florilegium.storage.atomic_folders import NewFolder, new_folder
from florilegium.storage.paths import check_path
from florilegium.storage.run_directory import adapter_folder, find_run
from florilegium.storage.run_lock import set_aside

FORMS = ("merged", "gguf", "gguf-adapter", "onnx")
FILE = "export.json"
ROOM = 0.7  # of the memory that is free: what the check's model may take


@dataclass(frozen=True)
class Exported:
    """What stands in `directory` now."""

    directory: Path
    to: str
    kind: str
    files: dict[str, int]
    verdict: Verdict


@dataclass(frozen=True)
class Request:
    """One export, resolved: what is merged, where it goes, how it is checked."""

    subject: Subject
    to: str
    kind: str
    output: Path
    check: bool
    data: str | None
    device: str


def export(
    run: str | Path = "latest",
    *,
    to: str = "merged",
    kind: str = "f16",
    output: str | None = None,
    model: str | None = None,
    data: str | None = None,
    check: bool = True,
    force: bool = False,
    device: str = "auto",
    view: View | None = None,
) -> Exported:
    """Writes `run` in the form `to` into the folder `output` (default: exports/ in the run). `model` names the 16-bit
    base if it has moved or was given in int8, `data` the run's rows; without `check` nothing is loaded again, and the
    card says so.

    Raises UsageError, ModelError (also for a verdict outside its tolerance), ResourceError."""
    view = view or Silent()
    directory = find_run(str(run))
    adapter = adapter_folder(directory)
    if to not in FORMS or to == "onnx":
        raise UsageError(
            "an ONNX model is made from a merged folder by Optimum" if to == "onnx" else f"there is no form {to!r}",
            "Type: florilegium export --to merged; then see docs/how-to/onnx.md"
            if to == "onnx"
            else f"One of: {', '.join(FORMS)}",
        )
    subject = read_subject(directory, adapter, model)
    request = Request(subject, to, kind, _output(output, directory, adapter, to, kind), check, data, device)
    with disk_errors(request.output):
        request.output.parent.mkdir(parents=True, exist_ok=True)
    if _is_taken(request.output):
        if not force:
            raise UsageError(
                f"{request.output} is already there", "Choose another --output, or set it aside with --force"
            )
        view.say(f"set aside {set_aside(request.output)}")
    return _export_merged(request, view)


def _output(output: str | None, directory: Path, adapter: Path, to: str, kind: str) -> Path:
    if output is not None:
        return check_path(output, "--output")
    name = f"{to}-{kind.lower()}" if to == "gguf" else to
    if adapter == directory:  # an adapter alone has no run to lie in
        return adapter.with_name(f"{adapter.name}-{name}")
    return directory / "exports" / name


def _is_taken(path: Path) -> bool:
    return path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir())))


def _export_merged(request: Request, view: View) -> Exported:
    subject = request.subject
    with BaseWeights(subject.base_folder, subject.base.name) as weights:
        merge = Merge(weights, subject.adapter)
        dtype = max((t.dtype for t in merge), key=lambda d: sum(t.shape[0] for t in merge if t.dtype == d and t.shape))
        name = str(dtype).removeprefix("torch.")
        live = Live.ask(request, weights, view)

        def check(folder: NewFolder) -> Verdict:
            assert live.answers is not None and live.probe is not None
            view.say("loading what was written, and asking it the same")
            merged = _answers_of(folder.path, live)
            return judge_merged(live.answers, merged, name, live.probe.what)

        def write(folder: NewFolder) -> None:
            view.say(f"merging {len(merge.adapter.changes)} weights of {len(merge.tensors)} into {request.output}")
            write_merged(folder, merge, subject.adapter)

        return finish(replace(request, kind=name), merge, merged_bytes(merge), write, check if live.answers else None)


def finish(
    request: Request,
    merge: Merge,
    needed: int,
    write: Callable[[NewFolder], None],
    check: Callable[[NewFolder], Verdict] | None,
    unchecked: str = "asked not to (--no-check)",
) -> Exported:
    """The folder of an export: written, checked, with its card, and only then named."""
    facts = export_facts(request, merge)
    with new_folder(request.output, facts, needed=needed, manifest=FILE) as folder:
        write(folder)
        verdict = check(folder) if check else Verdict(None, reason=unchecked)
        if verdict.passed is False:
            raise ModelError(
                f"what was exported was loaded, found wrong and removed: {verdict.reason} ({verdict.sentence()})",
                "Export in more bits, or keep it unchecked with --no-check; please report it with the command that you typed",
            )
        folder.facts["verdict"] = verdict.as_json()
        sizes = {name: int(entry["bytes"]) for name, entry in folder.sums.items()}
        card = export_card(request.subject, request.to, request.kind, sizes, verdict)
        folder.write("README.md", [card.encode()])
    return Exported(request.output, request.to, request.kind, sizes, verdict)


def export_facts(request: Request, merge: Merge) -> dict[str, Any]:
    subject = request.subject
    return {
        "format": 1,
        "to": request.to,
        "type": request.kind,
        "version": importlib.metadata.version("florilegium"),
        "run": subject.name,
        "base": {"name": subject.base.name, "on_hub": subject.base.on_hub, "licence": subject.base.licence},
        "adapter": {"sha256": merge.adapter.digest, "rank": merge.adapter.rank, "alpha": merge.adapter.alpha},
        "template": subject.template.text,
    }


@dataclass(frozen=True)
class Live:
    """The live adapter's answers, and how they were got; all None with --no-check."""

    answers: Answers | None = None
    probe: Probe | None = None
    dtype: Any = None
    device: Any = None

    @classmethod
    def ask(cls, request: Request, weights: BaseWeights, view: View) -> Live:
        """Loads base and adapter in as many bits as there is memory for, asks, and lets them go."""
        if not request.check:
            return cls()
        from florilegium.model import choose_device, load_adapter, load_base
        from florilegium.model.load_errors import quietly

        device = choose_device(request.device)
        bits = _bits_that_fit(weights, device)
        view.say(f"asking the live adapter, its base in {bits} bits")
        base = load_base(str(request.subject.base_folder), bits=bits, device=device)
        probe = make_probe(request.subject, base.tokenizer, request.data)
        tuned = load_adapter(base, request.subject.adapter, other_weights=request.subject.other_weights)
        with quietly():
            answers = ask(tuned, probe)
        dtype = base.model.dtype
        del tuned, base
        gc.collect()
        return cls(answers, probe, dtype, device)


def _bits_that_fit(weights: BaseWeights, device: Any) -> int:
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


def _free_memory(device: Any) -> int:
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62


def _answers_of(folder: Path, live: Live) -> Answers:
    """What stands in `folder`, loaded by Transformers as anybody would."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from florilegium.model.load_errors import model_errors, quietly

    assert live.probe is not None
    with model_errors("what was exported"), quietly():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if [tokenizer(text)["input_ids"] for text in live.probe.prompts] != live.probe.prompt_ids:
            raise ModelError("the exported tokenizer gives other tokens than the adapter's", "Please report it")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=live.dtype).to(live.device)
        return ask(model.eval(), live.probe)
