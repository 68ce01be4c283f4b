"""Draw relative position encodings (RPE) around a query, and attention over an image."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from PIL import Image

from util.files import atomic_write
from util.plot_utils import colour_of, draw_caption

SIGNED, UNSIGNED = "RdBu_r", "viridis"
OVERLAY = "YlOrRd"  # for shares of attention over an image
PANEL = 2.6  # inches
MAX_LABELLED = 30  # cells of a map that show their values
MAX_INCHES = 600  # height of a figure at 100 dpi: Matplotlib draws at most 2^16 pixels


class Block(NamedTuple):
    """Maps around a query that share a title and a colour scale.

    Attributes:
        label: of their colour bar.
        signed: whether the colours are symmetric around zero.
        panels: rows of (title, map); maps are (S, S) with the query in the middle, NaN where blank.
    """

    title: str
    label: str
    signed: bool
    panels: list[list[tuple[str, np.ndarray]]]


def draw_tables(blocks: Sequence[Block], hw: tuple[int, int] | None, title: str) -> plt.Figure:
    """Draw maps around a query.

    Args:
        hw: height and width of a feature map, whose offsets get a frame; None for no frame.
    """
    shapes = [(len(block.panels), max(map(len, block.panels))) for block in blocks]
    figure = _figure(sum(rows for rows, _ in shapes), max(columns for _, columns in shapes), 1.0)
    radius = len(blocks[0].panels[0][0][1]) // 2
    framed = hw is not None and max(hw) - 1 < radius
    if framed:
        title += f"\ndashed: offsets that {hw[0]} x {hw[1]} tokens have"
    if any(np.isnan(v).any() for block in blocks for row in block.panels for _, v in row):
        title += "\nblank: offsets that no feature map of the training reached"
    figure.suptitle(title, fontsize=10, parse_math=False)
    parts = figure.subfigures(
        len(blocks), 1, squeeze=False, height_ratios=[rows for rows, _ in shapes]
    )[:, 0]
    for part, block, shape in zip(parts, blocks, shapes, strict=True):
        part.suptitle(block.title, fontsize=10, parse_math=False)
        axes = part.subplots(*shape, squeeze=False)
        values = [values for row in block.panels for _, values in row]
        scale = _scale(values, block.signed)
        for row, panels in zip(axes, block.panels, strict=True):
            for axis in row[len(panels) :]:
                axis.axis("off")
            for axis, (name, values) in zip(row, panels, strict=False):
                edge = radius + 0.5
                shown = axis.imshow(values, extent=(-edge, edge, edge, -edge), **scale)
                axis.plot(0, 0, "o", color="black", markeredgecolor="white", markersize=6)
                axis.set_title(name, fontsize=9)
                axis.tick_params(labelsize=7)
                if framed:
                    height, width = (2 * side - 1 for side in hw)
                    axis.add_patch(_box(-width / 2, -height / 2, width, height, linestyle="--"))
            row[0].set_ylabel("rows below the query", fontsize=8)
        for axis in axes[-1]:
            axis.set_xlabel("columns right of the query", fontsize=8)
        part.colorbar(shown, ax=axes, shrink=0.8, aspect=30).set_label(block.label, fontsize=8)
    return figure


class Row(NamedTuple):
    """Attention of one query point in one layer: maps (h, w) float.

    Attributes:
        name: of the layer and its heads.
        point: x, y in pixels of the image; None for a token that is nowhere on it.
        attention: as the model computes it.
        without, term: attention without RPE, and what RPE adds to the logits; None if it adds
            nothing.
    """

    name: str
    point: tuple[float, float] | None
    attention: np.ndarray
    without: np.ndarray | None
    term: np.ndarray | None


def draw_attention(
    image: Image.Image,
    extent: tuple[float, float, float, float],
    rows: Sequence[Row],
    title: str,
    figure: plt.Figure | None = None,
) -> plt.Figure:
    """Draw the attention of points over an image, one row for each.

    Args:
        extent: left, right, bottom, top edge of the maps in pixels of the image.
        figure: to draw on after clearing it; a new one by default.
    """
    with_term = any(row.term is not None for row in rows)
    columns = 4 if with_term else 2
    if figure is None:
        figure = _figure(len(rows), columns, 0.45, image.width / image.height)
    figure.clear()
    figure.suptitle(title, fontsize=11, parse_math=False)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    names = ["query point"]
    names += ["attention"] if not with_term else [
        "attention of the model", "without relative positions", "their term in the logits",
    ]  # fmt: skip
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, fontsize=10)
    for row, (first, *others) in zip(rows, axes, strict=True):
        first.imshow(image, extent=(0, image.width, image.height, 0))
        at = "" if row.point is None else f"\npoint ({row.point[0]:g}, {row.point[1]:g})"
        first.set_ylabel(f"{row.name}{at}", fontsize=9)
        _mark(first, row.point)
        if row.term is None or row.without is None:
            _overlay(
                others[0],
                image,
                row.attention,
                extent,
                _scale([row.attention], False, overlay=True),
            )
            _bar(figure, others[:1], "share of attention")
        else:
            shares = _scale([row.attention, row.without], False, overlay=True)
            _overlay(others[0], image, row.attention, extent, shares)
            _overlay(others[1], image, row.without, extent, shares)
            _overlay(others[2], image, row.term, extent, _scale([row.term], True, overlay=True))
            _bar(figure, others[:2], "share of attention")
            _bar(figure, others[2:], "added to the logit")
        for axis in others:
            _mark(axis, row.point)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], xlim=(0, max(extent[1], image.width)))
        axis.set(ylim=(max(extent[2], image.height), 0))
    return figure


def draw_decoder(
    image: Image.Image,
    extent: tuple[float, float, float, float],
    maps: np.ndarray,
    detections: dict,
    title: str,
    columns: int = 4,
) -> plt.Figure:
    """Draw what each detection's query attends to, with its box, name and score.

    Args:
        maps: (n, h, w) float.
        detections: n of them, as from `detector.Detector`.
    """
    count = max(len(maps), 1)
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = _figure(rows, columns, 0.5, image.width / image.height)
    figure.suptitle(title, fontsize=11, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    if not len(maps):
        axes[0, 0].imshow(image)
    for i, (axis, values) in enumerate(zip(axes.flat, maps)):
        _overlay(axis, image, values, extent, _scale([values], False, overlay=True))
        x0, y0, x1, y1 = detections["boxes"][i].tolist()
        colour = colour_of(detections["labels"][i].item())
        axis.add_patch(_box(x0, y0, x1 - x0, y1 - y0, color="white", linewidth=3))
        axis.add_patch(_box(x0, y0, x1 - x0, y1 - y0, color=colour))
        draw_caption(
            axis, x0, y0, f"{detections['names'][i]} {detections['scores'][i]:.2f}", colour
        )
        _bar(figure, [axis], "share of attention")
    return figure


def draw_box_bias(
    image: Image.Image,
    extent: tuple[float, float, float, float],
    maps: np.ndarray,
    references: np.ndarray,
    detections: dict,
    heads: Sequence[str],
    title: str,
) -> plt.Figure:
    """Draw what reference boxes add to logits, a row for each detection, a column for each head.

    Args:
        maps: (n, m, h, w) float.
        references: (n, 4), (x0, y0, x1, y1) in pixels of the image.
        detections: n of them, as from `detector.Detector`.
        heads: names of the m heads.
    """
    rows, columns = max(len(maps), 1), len(heads)
    figure = _figure(rows, columns, 0.5, image.width / image.height)
    figure.suptitle(title, fontsize=11, wrap=True, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(head, fontsize=10)
    for axis in axes.flat:
        axis.axis("off")
        axis.imshow(image)
    # What is the same for all pixels has no effect on attention.
    for i, (line, of_heads) in enumerate(zip(axes, maps - maps.mean((2, 3), keepdims=True))):
        for axis, values in zip(line, of_heads, strict=True):
            _overlay(axis, image, values, extent, _scale([of_heads], True, overlay=True))
            for box, style in ((references[i], "--"), (detections["boxes"][i].tolist(), "-")):
                x0, y0, x1, y1 = box
                colour = colour_of(detections["labels"][i].item())
                axis.add_patch(_box(x0, y0, x1 - x0, y1 - y0, color=colour, linestyle=style))
        x0, y0 = detections["boxes"][i, :2].clamp(min=0).tolist()
        text = f"{detections['names'][i]} {detections['scores'][i]:.2f}"
        draw_caption(line[0], x0, y0, text, colour)
        _bar(figure, line, "added to the logit,\nless its mean")
    return figure


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Write a figure, in the format of the path's suffix, and close it."""
    with atomic_write(path) as file:
        figure.savefig(file, dpi=100, format=path.suffix[1:])
    plt.close(figure)


def _figure(rows: int, columns: int, more: float, aspect: float = 1.0) -> plt.Figure:
    """Make a figure for rows x columns panels, `more` inches higher, with room for colour bars."""
    width, height = (PANEL * max(aspect, 1), PANEL / min(aspect, 1))
    return plt.figure(
        figsize=(max(width * columns + 1, 5), min(height * rows + more, MAX_INCHES)),
        layout="constrained",
    )


def _scale(maps: Iterable[np.ndarray], signed: bool, overlay: bool = False) -> dict:
    """Return colours and their limits: from 0 on, or symmetric around 0 for signed values.

    In an overlay, values near 0 are transparent.
    """
    most = max(float(np.nanmax(np.abs(values))) for values in maps) or 1.0
    colours = plt.colormaps[SIGNED if signed else UNSIGNED]
    if overlay:
        steps = np.linspace(0, 1, 256)
        table = colours(steps) if signed else plt.colormaps[OVERLAY](steps)
        table[:, 3] = 0.85 * np.sqrt(np.abs(2 * steps - 1) if signed else steps)
        colours = ListedColormap(table)
    return {"cmap": colours, "vmin": -most if signed else 0, "vmax": most}


def _overlay(
    axis: plt.Axes, image: Image.Image, values: np.ndarray, extent: Sequence[float], scale: dict
) -> None:
    """Draw a map over the faded image; cells show their values if there are few."""
    sides = (0, image.width, image.height, 0)
    axis.imshow(np.asarray(image.convert("L")), cmap="gray", vmin=-255, vmax=285, extent=sides)
    axis.imshow(values, extent=extent, **scale)
    if values.size > MAX_LABELLED:
        return
    left, right, bottom, top = extent
    for (row, column), value in np.ndenumerate(values):
        x = left + column / values.shape[1] * (right - left)
        y = top + row / values.shape[0] * (bottom - top)
        text = f"{value:+.2f}" if scale["vmin"] else f"{value:.2f}"
        axis.annotate(
            text, (x, y), (3, -4), textcoords="offset points", fontsize=8, va="top",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.6},
        )  # fmt: skip


def _mark(axis: plt.Axes, point: tuple[float, float] | None) -> None:
    if point is not None:
        axis.plot(*point, "X", color="black", markeredgecolor="white", markersize=11)


def _bar(figure: plt.Figure, axes: Sequence[plt.Axes], label: str) -> None:
    bar = figure.colorbar(axes[0].get_images()[-1], ax=list(axes), shrink=0.85)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _box(x: float, y: float, width: float, height: float, **style) -> plt.Rectangle:
    return plt.Rectangle((x, y), width, height, fill=False, **{"linewidth": 1.5, **style})
