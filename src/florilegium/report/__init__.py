"""The report of a run: one page that anybody can open, and a picture of the losses; both made from the files in the
run's folder.

In reading order: `facts` (the folder's files, read), `curves` (numbers to SVG), `page` (report.html), `picture`
(loss.png), `compare` (two runs side by side)."""

from florilegium.report.compare import compare_runs, comparison_page
from florilegium.report.loss_plot import import_in_background
from florilegium.report.page import run_page, write_report
from florilegium.report.run_reader import RunRecord, read_run

__all__ = [
    "RunRecord",
    "compare_runs",
    "comparison_page",
    "import_in_background",
    "read_run",
    "run_page",
    "write_report",
]
