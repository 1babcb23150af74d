"""`florilegium export RUN --to FORM`: the tuned model in a form that other programs run, checked before it has a name.

    1. the live adapter on its 16-bit base answers the probe (`export/probe.py`)
    2. .DIR.tmp/ is written from base and adapter, tensor by tensor
    3. what was written is loaded again and answers the same probe
    4. the verdict goes into export.json and README.md, and the folder gets its name

Outside the tolerance of its type the folder is removed: nothing is left that looks finished. The steps before 4 leave
only a hidden folder that the next export to the same place removes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from florilegium.config.installed import installed_version
from florilegium.errors import ModelError, UsageError
from florilegium.export.base_weights import BaseWeights
from florilegium.export.hub_files import EXPORT_FORMAT
from florilegium.export.merge import Merge
from florilegium.export.subject import Subject, read_subject
from florilegium.export.verdict import Verdict
from florilegium.model.identity import EXPORTED
from florilegium.runs.cards import export_card
from florilegium.runs.export_forms import Form, gguf_adapter_form, gguf_form, merged_form, quantised_form
from florilegium.runs.export_live import Live, ask_live
from florilegium.runs.recorder import NullView, ProgressView
from florilegium.storage.atomic_files import Remedy, disk_errors
from florilegium.storage.atomic_folders import new_folder, sweep_dead
from florilegium.storage.paths import check_path
from florilegium.storage.run_directory import adapter_folder, find_run
from florilegium.storage.run_lock import set_aside

FORMS = ("merged", "quantised", "gguf", "gguf-adapter", "onnx")
FORM_OF = {"merged": merged_form, "quantised": quantised_form, "gguf": gguf_form, "gguf-adapter": gguf_adapter_form}


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
    """One export, resolved: as what, where it goes, what export.json says of it beside the form, and its card, from the
    sizes of its files and the verdict."""

    to: str
    output: Path
    facts: Callable[[Merge], Mapping[str, object]]
    card: Callable[[str, Mapping[str, int], Verdict], str]


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
    view: ProgressView | None = None,
) -> Exported:
    """Writes `run` in the form `to` into the folder `output` (default: exports/ in the run). `model` names the 16-bit
    base if it has moved or was given in int8, `data` the run's rows; without `check` nothing is loaded again, and the
    card says so.

    Raises UsageError, ModelError (also for a verdict outside its tolerance), ResourceError."""
    view = view or NullView()
    directory = find_run(str(run))
    adapter = adapter_folder(directory)
    if to not in FORMS or to == "onnx":
        raise UsageError(
            "an ONNX model is made from a merged folder by Optimum" if to == "onnx" else f"there is no form {to!r}",
            "Type: florilegium export --to merged; then see docs/how-to/export-onnx.md"
            if to == "onnx"
            else f"One of: {', '.join(FORMS)}",
        )
    subject = read_subject(directory, adapter, model)
    request = Request(
        to,
        make_room(_output(output, directory, adapter, to, kind), force),
        lambda merge: _facts(subject, merge),
        lambda form, sizes, verdict: export_card(subject, to, form, sizes, verdict),
    )
    with BaseWeights(subject.weights, subject.base.name) as weights:
        merge = Merge(weights, adapter)
        form = FORM_OF[to](merge, subject, kind)
        reason = "asked not to (--no-check)" if not check else form.cannot_check
        live = None if reason else ask_live(subject, weights, data, device, view)
        return write_export(request, form, merge, live, reason, view)


def _output(output: str | None, directory: Path, adapter: Path, to: str, kind: str) -> Path:
    if output is not None:
        return check_path(output, "--output")
    name = f"{to}-{kind.lower()}" if to in ("gguf", "quantised") else to
    if adapter == directory:  # an adapter alone has no run to lie in
        return adapter.with_name(f"{adapter.name}-{name}")
    return directory / "exports" / name


def make_room(output: Path, force: bool) -> Path:
    """`output`, its parent made. Raises UsageError where something is there already."""
    with disk_errors(output, remedy=Remedy(again="`florilegium export`")):
        output.parent.mkdir(parents=True, exist_ok=True)
    if _is_taken(output) and not force:
        raise UsageError(f"{output} is already there", "Choose another --output, or set it aside with --force")
    return output


def _is_taken(path: Path) -> bool:
    return path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir())))


def write_export(
    request: Request, form: Form, merge: Merge, live: Live | None, reason: str, view: ProgressView
) -> Exported:
    """The folder of an export: written, checked, with its card, and only then named."""
    sweep_dead(request.output)
    version = installed_version("florilegium")
    facts = {"format": EXPORT_FORMAT, "to": request.to, "type": form.kind, "version": version, **request.facts(merge)}
    remedy = Remedy(again="`florilegium export`")
    with new_folder(request.output, facts, needed=form.needed, manifest=EXPORTED, remedy=remedy) as folder:
        view.say(f"writing {form.what} to {request.output}")
        form.write(folder)
        if live is not None:
            view.say("loading the export to compare it")
        verdict = form.check(folder, live) if live is not None else Verdict(None, reason=reason)
        if verdict.passed is False:
            raise ModelError(
                f"the export failed its check and was removed: {verdict.reason} ({verdict.sentence()})",
                "Export in more bits, or keep it unchecked with --no-check; please report it with the command that you typed",
            )
        folder.facts["verdict"] = verdict.as_json()
        sizes = {name: entry["bytes"] for name, entry in folder.sums.items()}
        folder.write("README.md", [request.card(form.kind, sizes, verdict).encode()])
        if _is_taken(request.output):
            view.say(f"set aside {set_aside(request.output)}")
        elif request.output.is_dir():
            request.output.rmdir()
    return Exported(request.output, request.to, form.kind, sizes, verdict)


def _facts(subject: Subject, merge: Merge) -> Mapping[str, object]:
    return {
        "run": subject.name,
        "base": {"name": subject.base.name, "on_hub": subject.base.on_hub, "licence": subject.base.licence},
        "adapter": {"sha256": merge.adapter.digest, "rank": merge.adapter.rank, "alpha": merge.adapter.alpha},
        "template": subject.template.text,
    }
