"""Draw curves of runs as an HTML page that needs no other file."""

from collections.abc import Sequence
from pathlib import Path

from tools.html_page.frame import render_page
from tools.run_curves.charts import Chart, charts_of, run_colours
from tools.run_curves.options import differences
from tools.run_curves.runs import LoggedRun
from util.files import atomic_write

ASSETS = Path(__file__).parent / "assets"


def write_page(runs: Sequence[LoggedRun], path: Path) -> None:
    """Write a page of curves, which can be hidden, smoothed and read off, and a table of numbers.

    Raises:
        UserError: the file cannot be written.
    """
    charts, known = charts_of(runs), {run.data for run in runs}
    data = {
        "runs": [
            _run_entry(run, colour, charts)
            for run, colour in zip(runs, run_colours(len(runs)), strict=True)
        ],
        "charts": [_chart_entry(chart) for chart in charts],
        "differences": differences(runs),
        "same_data": len(runs) == 1 or ("" not in known and len(known) == 1),
    }
    title = f"Run {runs[0].name}" if len(runs) == 1 else f"Comparison of {len(runs)} runs"
    page = render_page(ASSETS, title, data)
    with atomic_write(path) as file:
        file.write(page.encode())


def _run_entry(run: LoggedRun, colour: str, charts: list[Chart]) -> dict:
    numbers = (number for chart in charts for number, _ in chart.curves())
    curves = {number: run.points(number) for number in numbers}
    return {
        "name": run.name,
        "colour": colour,
        "epochs": run.count(),
        "last": run.epochs[-1]["epoch"] + 1,
        "curves": {number: _rounded(points) for number, points in curves.items() if points},
        "bands": {number: _rounded(band) for number in curves if (band := run.band(number))},
    }


def _rounded(points: list) -> list[list[float]]:
    return [[epoch, *(float(f"{value:.6g}") for value in values)] for epoch, *values in points]


def _chart_entry(chart: Chart) -> dict:
    curves = [{"number": number, "whose": whose} for number, whose in chart.curves()]
    names = ("title", "logarithmic", "better", "smoothed")
    return {"curves": curves, **{name: getattr(chart, name) for name in names}}
