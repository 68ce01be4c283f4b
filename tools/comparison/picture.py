"""The picture of a study: differences to the baseline, learning curves, values by image size."""

import textwrap
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only, no display
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from tools.comparison.results import Results
from tools.run_curves.charts import run_colours
from tools.run_curves.picture import STYLE, escaped
from util.files import atomic_write

DPI = 110
MAX_NAME, MAX_TITLE = 24, 44  # letters in a line
ROW = 0.3  # inches of a configuration in the panel of differences


def draw_study(results: Results, path: Path) -> None:
    """Draw a study's panels side by side as a PNG; one colour a configuration.

    Differences have a small dot for each seed, a large one for the mean and a line for its
    interval; curves, which need two evaluations of a run, are means with a band from the lowest to
    the highest seed, values by size with a band of their intervals.

    Raises:
        UserError: the file cannot be written.
    """
    names = list(results.study.configurations)
    colours = dict(zip(names, run_colours(len(names)), strict=True))
    panels = [_differences]
    if any(len(points) > 1 for points in results.lines(results.metric).values()):
        panels.append(_curves)
    if results.study.image_sizes:
        panels.append(_sizes)
    height = max(3.2, 1.1 + ROW * len(names))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(4.6 * len(panels), height), layout="constrained", squeeze=False
        )
        try:
            for panel, axis in zip(panels, axes.flat, strict=True):
                panel(results, axis, colours)
            lines, labels = axes.flat[-1].get_legend_handles_labels()
            if lines:
                letters = max(len(line) for label in labels for line in label.split("\n"))
                columns = max(1, min(len(lines), 60 * len(panels) // (letters + 8)))
                figure.legend(lines, labels, loc="outside lower center", ncols=columns,
                              frameon=False, fontsize=8)  # fmt: skip
            with atomic_write(path) as file:
                figure.savefig(file, format="png", dpi=DPI)
        finally:
            plt.close(figure)


def _differences(results: Results, axis: plt.Axes, colours: dict[str, str]) -> None:
    rows = [row for row in results.rows if not row["is_baseline"] and row["differences"]]
    for place, row in enumerate(rows):
        colour, found = colours[row["name"]], row["difference"]
        if found["low"] is not None:
            ends = [found["low"], found["high"]]
            axis.plot(ends, [place] * 2, color=colour, linewidth=2, alpha=0.55)
        seeds = list(row["differences"].values())
        axis.plot(seeds, [place] * len(seeds), "o", color=colour, markersize=4.5, zorder=4,
                  markeredgecolor="white", markeredgewidth=0.8)  # fmt: skip
        axis.plot(found["mean"], place, "o", color=colour, markersize=9, zorder=3)
    axis.axvline(0, color="#444444", linewidth=1)
    axis.set_yticks(range(len(rows)), [_label(row["name"]) for row in rows])
    axis.set_ylim(max(len(rows), 1) - 0.5, -0.5)  # the first on top
    axis.set_title(_title(f"{results.label}: difference to {results.study.baseline}"))


def _curves(results: Results, axis: plt.Axes, colours: dict[str, str]) -> None:
    for name, points in results.lines(results.metric).items():
        if points:
            epochs, mean, low, high = zip(*points, strict=True)
            _band(axis, [epoch + 1 for epoch in epochs], mean, low, high, colours[name], name)
    axis.set_title(_title(f"{results.label} by epoch"))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _sizes(results: Results, axis: plt.Axes, colours: dict[str, str]) -> None:
    for row in results.rows:
        found = {int(size): entry["estimate"] for size, entry in row["sizes"].items()}
        trained = results.trained_size(row["name"])
        if trained is not None:
            found[trained] = row["estimate"]
        points = sorted((size, e) for size, e in found.items() if e["mean"] is not None)
        if points:
            lows, highs = (
                [entry["mean"] if entry[end] is None else entry[end] for _, entry in points]
                for end in ("low", "high")
            )
            _band(axis, [size for size, _ in points], [entry["mean"] for _, entry in points],
                  lows, highs, colours[row["name"]], row["name"])  # fmt: skip
    axis.set_title(_title(f"{results.label} by image size, intervals: 95 % t"))


def _band(axis: plt.Axes, x: Any, mean: Any, low: Any, high: Any, colour: str, name: str) -> None:
    axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.plot(x, mean, "o-", color=colour, label=_label(name))


def _label(name: str) -> str:
    return escaped(textwrap.fill(name, MAX_NAME))


def _title(text: str) -> str:
    return escaped(textwrap.fill(text, MAX_TITLE))
