"""loss.png: the losses as a picture, for a README or a mail. Drawn by matplotlib, without a screen and without its
global state."""

from __future__ import annotations

import io
import logging
import threading
import warnings
from contextlib import suppress
from typing import Any

from florilegium.report.run_reader import RunRecord
from florilegium.report.svg_charts import thinned
from florilegium.storage.atomic_files import TRAINING, Remedy, atomic_write

FILE = "loss.png"


def import_in_background() -> None:
    """Has matplotlib imported by a thread of its own: a second, or two from a cold disk, that nobody waits for at the
    end of a run."""
    with suppress(RuntimeError):  # no thread can be had
        threading.Thread(target=_import, name="matplotlib").start()


def _import() -> None:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # that it looks for fonts is no news for who trains
    with suppress(Exception):  # whoever draws is told
        import matplotlib.backends.backend_agg  # noqa: F401  # for whoever imports it next


def write_loss_plot(facts: RunRecord, remedy: Remedy = TRAINING) -> None:
    """Writes loss.png into the run's folder, whole or not at all; nothing where no loss was logged. Raises
    ResourceError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    training, held_out = facts.series("loss"), facts.series("eval_loss", facts.evaluations)
    if not training and not held_out:
        return
    plot = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(plot)
    axes: Any = plot.subplots()
    if training:
        axes.plot(*zip(*thinned(training), strict=True), color="#9aa7b8", linewidth=1.2, label="training")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color="#b4442c", linewidth=2, marker="o", label="held out")
    axes.set(xlabel="step", ylabel="loss per token")
    # A dollar would start a formula; the name is somebody's text.
    title = "".join(c if c.isprintable() else " " for c in facts.name[:80])
    axes.set_title(title.replace("$", r"\$"))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    drawn = io.BytesIO()
    with warnings.catch_warnings():  # of letters that matplotlib's font lacks: the page has them
        warnings.simplefilter("ignore", UserWarning)
        plot.savefig(drawn, format="png", dpi=150)
    with atomic_write(facts.directory / FILE, remedy) as file:
        file.write(drawn.getvalue())
