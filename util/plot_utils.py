"""Pictures of what was found: detections and segments on images."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only, no display
import matplotlib.pyplot as plt
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from util.whole_file import replacing


def draw_detections(
    images: Sequence[Image.Image],
    detections: Sequence[dict],
    names: dict[int, str],
    path: Path,
    threshold: float = 0.5,
) -> None:
    """Draw images in a grid, with boxes, classes, scores and masks found on them, as a PNG.

    Args:
        detections: one an image, as from `models.postprocess`, in image pixels; masks (Q, H, W)
            bool may be missing.
        names: class names by label.
        threshold: detections of a lower score are not drawn.
    """
    with _grid(images, path) as axes:
        for axis, found in zip(axes, detections, strict=True):
            drawn = (found["scores"] >= threshold).nonzero().flatten().tolist()
            for i in drawn:
                label, score = found["labels"][i].item(), found["scores"][i].item()
                x0, y0, x1, y1 = found["boxes"][i].tolist()
                colour = colour_of(label)
                if "masks" in found:
                    mask = found["masks"][i].cpu().numpy()
                    _tint(axis, mask, colour)
                    _tint(axis, _edges(mask), (1, 1, 1), alpha=1)
                axis.add_patch(
                    plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=colour, linewidth=2)
                )
                draw_caption(axis, x0, y0, f"{names.get(label, label)} {score:.2f}", colour)


def draw_maps(
    images: Sequence[Image.Image], maps: Sequence[dict], names: dict[int, str], path: Path
) -> None:
    """Draw images in a grid, with the segment of each pixel over them, as a PNG.

    Args:
        maps: one an image, as from `models.postprocess.PostProcessPanoptic`.
        names: category names by id.
    """
    with _grid(images, path) as axes:
        for axis, found in zip(axes, maps, strict=True):
            ids = found["ids"].numpy()
            for segment in found["segments_info"]:
                _tint(axis, ids == segment["id"], colour_of(segment["category_id"]))
            _tint(axis, _edges(ids), (1, 1, 1), alpha=1)
            for segment in found["segments_info"]:
                rows, columns = (ids == segment["id"]).nonzero()
                label, middle = segment["category_id"], len(rows) // 2
                caption = f"{names.get(label, label)}"
                draw_caption(axis, columns[middle], rows[middle], caption, colour_of(label))


@contextlib.contextmanager
def _grid(
    images: Sequence[Image.Image], path: Path, columns: int = 6
) -> Iterator[Sequence[plt.Axes]]:
    """One axis an image, which is drawn on it; the figure is written at the end."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.6 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    used = axes.flat[: len(images)]
    for axis, image in zip(used, images, strict=True):
        axis.imshow(image)
    yield used
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=80)
    plt.close(figure)


def colour_of(label: int) -> tuple[float, float, float]:
    """Of a class."""
    colours = plt.colormaps["tab20"].colors
    return colours[label % len(colours)]


def _tint(
    axis: plt.Axes, mask: np.ndarray, colour: tuple[float, float, float], alpha: float = 0.5
) -> None:
    """Colour the pixels of a mask (H, W) bool."""
    tint = np.zeros((*mask.shape, 4))
    tint[mask] = (*colour, alpha)
    axis.imshow(tint)


def _edges(values: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels whose right or lower neighbour is another."""
    edges = np.zeros(values.shape, dtype=bool)
    edges[:-1] = values[:-1] != values[1:]
    edges[:, :-1] |= values[:, :-1] != values[:, 1:]
    return edges


def draw_caption(
    axis: plt.Axes, x: float, y: float, text: str, colour: tuple[float, float, float]
) -> None:
    """Text on a coloured ground, its lower left corner at x, y of the axes."""
    box = {"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.8}
    axis.text(x, y, text, fontsize=7, va="bottom", bbox=box)


def drawn_on(image: Image.Image, found: dict) -> Image.Image:
    """A copy of an image with what was found on it.

    Args:
        found: as from `detector.Detector`.
    """
    if not found["names"]:
        return image.copy()
    colours = [
        tuple(int(255 * part) for part in colour_of(label)) for label in found["labels"].tolist()
    ]
    canvas = pil_to_tensor(image)
    if "masks" in found:
        canvas = draw_segmentation_masks(canvas, found["masks"], alpha=0.5, colors=colours)
    unit = max(min(image.size) // 40, 10)  # pixels
    canvas = draw_bounding_boxes(canvas, found["boxes"], colors=colours, width=1 + unit // 10)
    drawn = to_pil_image(canvas)
    draw = ImageDraw.Draw(drawn)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), unit)
    rows = zip(
        found["boxes"].tolist(), found["names"], found["scores"].tolist(), colours, strict=True
    )
    for (x0, y0, _, _), name, score, colour in rows:
        caption, corner = f"{name} {score:.2f}", (x0, max(y0 - unit, 0))
        draw.rectangle(draw.textbbox(corner, caption, font), fill=colour)
        draw.text(corner, caption, "black", font)
    return drawn
