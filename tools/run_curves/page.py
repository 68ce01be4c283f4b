"""Curves of runs as a page that needs nothing but itself and a browser."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from tools.html_page import fill
from tools.run_curves.charts import Chart, charts_of, run_colours
from tools.run_curves.runs import LoggedRun
from util.files import atomic_write

TEMPLATE = Path(__file__).with_suffix(".html")


def write_page(runs: Sequence[LoggedRun], path: Path) -> None:
    """Write the curves, which can be hidden, smoothed and read off, and a table of best numbers.

    Raises:
        UserError: the file cannot be written.
    """
    charts = charts_of(runs)
    data = {
        "runs": [
            _run_entry(run, colour, charts)
            for run, colour in zip(runs, run_colours(len(runs)), strict=True)
        ],
        "charts": [_chart_entry(chart) for chart in charts],
    }
    page = fill(TEMPLATE, data, table=best_table(runs, charts))
    with atomic_write(path) as file:
        file.write(page.encode())


def _run_entry(run: LoggedRun, colour: str, charts: list[Chart]) -> dict:
    numbers = (number for chart in charts for number, _ in chart.curves())
    curves = {number: run.points(number) for number in numbers}
    return {
        "name": run.name,
        "colour": colour,
        "last": run.epochs[-1]["epoch"],
        "curves": {
            number: [(epoch, float(f"{value:.6g}")) for epoch, value in points]
            for number, points in curves.items()
            if points
        },
    }


def _chart_entry(chart: Chart) -> dict:
    curves = [{"number": number, "whose": whose} for number, whose in chart.curves()]
    flags = {"logarithmic": chart.logarithmic, "smoothed": chart.smoothed}
    return {"title": chart.title, **flags, "curves": curves}


def best_table(runs: Sequence[LoggedRun], charts: Sequence[Chart]) -> str:
    """HTML of a table: of each run the best and the last value of scores, total loss and speed.

    The best of all runs is marked, if there are several.
    """
    swatch = '<span class="swatch" style="background:{}"></span> '
    names = "".join(
        f'<th class="first" colspan="2">{swatch.format(colour)}{escape(run.name)}</th>'
        for run, colour in zip(runs, run_colours(len(runs)), strict=True)
    )
    epochs = "".join(
        f'<td class="first" colspan="2">{len(run.epochs)}, last {run.epochs[-1]["epoch"]}</td>'
        for run in runs
    )
    under = '<th class="first">best</th><th>last</th>' * len(runs)
    lines = [f"<th></th>{names}", f"<th>epochs</th>{epochs}", f"<th></th>{under}"]
    for chart in charts:
        number, whose = chart.curves()[-1]
        points = [run.points(number) for run in runs]
        if chart.better and any(points):
            title = chart.title + (f", {whose}" if len(chart.curves()) > 1 else "")
            lines.append(f"<th>{escape(title)}</th>{_cells(points, chart.better)}")
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cells(runs: list[list[tuple[int, float]]], better: str) -> str:
    """Best and last of each run's points; a run may have none."""
    choose = max if better == "highest" else min
    best = [choose(points, key=lambda point: point[1]) if points else None for points in runs]
    values = [point[1] for point in best if point is not None]
    cells = []
    for point, points in zip(best, runs, strict=True):
        if point is None:
            cells.append('<td class="first"></td><td></td>')
            continue
        epoch, value = point
        top = " top" if len(values) > 1 and value == choose(values) else ""
        cells.append(
            f'<td class="first{top}">{value:#.4g} <small>epoch {epoch}</small></td>'
            f"<td>{points[-1][1]:#.4g}</td>"
        )
    return "".join(cells)
