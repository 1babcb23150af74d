"""The end of a run on the screen: some quotes, what it came to, where it lies, and what to type next."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path

from florilegium.cli.extras import missing_for_serving
from florilegium.cli.progress import gigabytes, print_quote
from florilegium.cli.screen import json_line, on_screen, print_line
from florilegium.errors import ResourceError
from florilegium.generation import Generated
from florilegium.runs.finish import Trained

NUM_QUOTES = 5
DEMO, SAMPLE = "seedling", "sample"  # as a manifest names the bundled model and the bundled rows


def show_trained(trained: Trained, as_json: bool) -> None:
    """Writes a few quotes with the new adapter, and prints them with the run's figures: for people, or as JSON."""
    rows = list(trained.verdict_rows[:NUM_QUOTES])
    if not rows and trained.tuned.first_words:
        with contextlib.suppress(ResourceError):  # the run is done and saved, and said why it has no samples
            rows = trained.tuned.generate("", n=NUM_QUOTES, seed=trained.manifest.seed)
    if as_json:
        print_line(json_line(_as_json(trained, rows)))
        return
    print_line(flush=True)
    for row in rows:
        print_quote(row, trained.tuned.template)
    print_line(f"\n{on_screen(_summary(trained))}{_verdict(trained)}\n{_next_commands(trained)}")


def _as_json(trained: Trained, rows: list[Generated]) -> dict[str, object]:
    return {
        "run": str(trained.directory),
        "adapter": str(trained.directory / "adapter"),
        **trained.manifest.to_json(),
        "quotes": [row.as_row(trained.tuned.template) for row in rows],
    }


def _summary(trained: Trained) -> str:
    results = trained.manifest.results
    assert results, "a run that is shown has ended"
    before, after, steps = results.eval_loss_before, results.eval_loss, results.steps
    loss = f"held-out loss {before:.3f} -> {after:.3f}, " if after is not None else ""
    speed = f"{results.tokens_per_second:,.0f} tokens/s, peak memory {gigabytes(results.peak_memory_bytes)}"
    return f"{loss}{steps} {'step' if steps == 1 else 'steps'} in {results.elapsed_seconds:.0f} s, {speed}"


def _verdict(trained: Trained) -> str:
    """The sentence that answers whether it worked, and what to type where it did not."""
    verdict = trained.verdict
    if verdict is None:
        return ""
    return "\n" + on_screen(verdict.sentence + (f": {verdict.advice}" if verdict.advice else ""))


def _next_commands(trained: Trained) -> str:
    opening = next(iter(trained.tuned.first_words), "")
    on_the_demo_model = trained.manifest.base.name == DEMO
    data = trained.manifest.data.source
    larger = data if on_the_demo_model and data != SAMPLE and Path(data).expanduser().exists() else ""
    return next_commands(trained.directory, opening, larger, link=sys.stdout.isatty(), page=not missing_for_serving())


def next_commands(directory: Path, opening: str, larger: str = "", *, link: bool = False, page: bool = False) -> str:
    """What can be pasted: commands with this run and an `opening` of its own rows; where the demo model was trained on
    somebody's own file (`larger`), the same on a larger BLOOM. `link`: the report as terminals let one click it; `page`:
    the page in a browser is installed."""
    run = shlex.quote(str(directory))
    report = (directory / "report.html").resolve().as_uri() if link else "report.html"
    commands = [
        f"florilegium generate {shlex.quote(opening)} -n 5 --run {run}" if opening else f"florilegium generate -n 5 --run {run}",
        f"florilegium evaluate {run} --base",
        f"florilegium report {run}",
        *(["florilegium ui"] if page else []),
    ]  # fmt: skip
    lines = [
        on_screen(f"The run is in {directory}: its adapter in adapter/, its page in {report}"),
        *(f"    {c}" for c in commands),
    ]
    if larger:
        lines += [
            on_screen("The demo model is small. The same on one that knows 46 languages, 1.1 GB to download:"),
            f"    florilegium train {_pasted(larger)} --model bigscience/bloom-560m",
        ]
    return "\n" + "\n".join(lines)


def _pasted(path: str) -> str:
    """Quoted, but for the ~ that a shell would then leave alone."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)
