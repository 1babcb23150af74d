"""The settings that a run wrote into its folder, for commands that need them: all of them there, and of today's kinds.

What the run itself wrote can be read again; where it cannot, the file is damaged, cut or edited, and what is in the
folder is no run that can be evaluated, resumed or trained further."""

from __future__ import annotations

import shlex
from pathlib import Path

from florilegium.config.checks import each_checked
from florilegium.config.files import read_config
from florilegium.config.renamed import current_settings
from florilegium.errors import ModelError, UsageError

ALWAYS_WRITTEN = ("data", "model", "bits", "seed", "report_to")  # by every version, from the first line to the last


def read_run_config(path: Path) -> dict[str, object]:
    """The settings in a run's config.yaml, under today's names. Raises ModelError that names file and line where it is
    unreadable, damaged or cut."""
    try:
        written = current_settings(read_config(path))
        each_checked(written, f"{path}: ")  # together, and for what is installed here, their user checks them
        if missing := [name for name in ALWAYS_WRITTEN if name not in written]:
            raise UsageError(f"{path} is incomplete: {missing[0]!r} is missing", _fix(path.parent))
    except UsageError as error:
        raise ModelError(f"{error.cause}, so the settings of this run are not known", _fix(path.parent)) from None
    return written


def _fix(run: Path) -> str:
    fix = "Put back the config.yaml that the run wrote"
    if (run / "adapter" / "adapter_config.json").is_file():
        return f"{fix}; its adapter can be used without: florilegium generate --run {shlex.quote(str(run))}"
    return f"{fix}, or train a new run"
