"""Draw curves of one or several runs as a picture."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only, no display
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from tools.run_curves.charts import Chart, charts_of, run_colours
from tools.run_curves.runs import LoggedRun
from util.files import atomic_write

COLUMNS = 4
MAX_NAME = 130  # letters in a line of the legend, as many as the picture is wide
MAX_MARKED = 40  # curves with more points have no markers
STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888",
    "axes.grid": True, "grid.color": "#e4e4e4", "lines.linewidth": 1.6, "lines.markersize": 3,
}  # fmt: skip


def draw_curves(runs: Sequence[LoggedRun], path: Path) -> None:
    """Draw a grid of charts: losses, scores, learning rate and speed by epoch, one colour a run.

    Args:
        path: ends with one of FORMATS.

    Raises:
        UserError: the file cannot be written.
    """
    charts = charts_of(runs)
    last = max((row["epoch"] + 1 for run in runs for row in run.epochs), default=1)
    rows = -(-len(charts) // COLUMNS) or 1
    colours = run_colours(len(runs))
    legend = [Line2D([], [], color=colour, linewidth=3) for colour in colours]
    names = [escaped(textwrap.fill(run.name, MAX_NAME)) for run in runs]
    lines = [Line2D([], [], color="#444444", linestyle=line) for line in ("-", "--")]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, COLUMNS, figsize=(3.6 * COLUMNS, 2.7 * rows), layout="constrained", squeeze=False
        )
        try:
            for chart, axis in zip(charts, axes.flat):
                _draw(chart, axis, runs, colours)
                margin = 0.03 * max(last - 1, 1)
                axis.set_xlim(1 - margin, last + margin)
            for axis in axes.flat[len(charts) :]:
                axis.axis("off")
            figure.legend(
                [*legend, *lines], [*names, "training (AP, PQ: validation)", "validation"],
                loc="outside upper left", ncols=_legend_columns(names), frameon=False, fontsize=10,
            )  # fmt: skip
            with atomic_write(path) as file:
                figure.savefig(file, format=path.suffix[1:].lower(), dpi=100)
        finally:
            plt.close(figure)


def _draw(chart: Chart, axis: plt.Axes, runs: Sequence[LoggedRun], colours: list[str]) -> None:
    lowest = None
    for run, colour in zip(runs, colours, strict=True):
        for place, (number, _) in enumerate(chart.curves()):
            points = run.points(number)
            if points:
                marker = "o" if len(points) <= MAX_MARKED else None
                axis.plot(*zip(*points), "--" if place else "-", marker=marker, color=colour)
                band = run.band(number)
                if band:
                    axis.fill_between(*zip(*band), color=colour, alpha=0.15, linewidth=0)
                least = min(low for _, low, *_ in band or points)
                lowest = least if lowest is None else min(lowest, least)
    axis.set_title(chart.title)
    axis.set_xlabel("epoch", loc="right", labelpad=1)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if chart.logarithmic and lowest is not None and lowest > 0:
        axis.set_yscale("log")
        axis.yaxis.set_minor_locator(NullLocator())
        axis.set_yticks(_log_ticks(*axis.get_ylim()))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5, 10, ...; or evenly spaced numbers if few of those are between the limits."""
    for locator in (LogLocator(subs=(1, 2, 5), numticks=9), MaxNLocator(5)):
        ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks


def escaped(name: str) -> str:
    """Return a name for Matplotlib's labels.

    It reads $ as mathematics, and leaves labels that start with _ out of legends.
    """
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")


def _legend_columns(names: list[str]) -> int:
    """Estimate how many names fit side by side, from their lengths in letters."""
    lines = (line for name in names for line in name.split("\n"))
    return max(1, min(len(names) + 2, 150 // (8 + max(map(len, (*lines, "x" * 24))))))
