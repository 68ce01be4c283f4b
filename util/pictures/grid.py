"""Pictures of many images beside each other."""

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from util.files import atomic_write

from .drawing import drawn_on, segments_on

CELL, GAP, MAX_COLUMNS = 256, 6, 6  # the first two in pixels


def draw_detections(
    images: Sequence[Image.Image],
    detections: Sequence[dict[str, Tensor]],
    names: dict[int, str],
    path: Path,
    threshold: float = 0.5,
    best: int = 0,
) -> None:
    """Write images in a grid with their boxes, classes, scores and masks as a PNG.

    Args:
        detections: of each image what `models.postprocess` returns, in image pixels; masks
            (Q, H, W) bool may be missing.
        names: class names by label.
        threshold: detections of a lower score are not drawn.
        best: except for so many, the best of each image, which are marked.
    """
    pictures = []
    for image, found in zip(images, detections, strict=True):
        drawn = (found["scores"] >= threshold).nonzero().flatten()
        if not len(drawn):
            drawn = found["scores"].argsort(descending=True)[:best]
        shown: dict = {name: value[drawn].cpu() for name, value in found.items()}
        shown["names"] = [names.get(label, str(label)) for label in shown["labels"].tolist()]
        pictures.append(drawn_on(image, shown, threshold, CELL))
    write_grid(pictures, path)


def draw_maps(
    images: Sequence[Image.Image], maps: Sequence[dict], names: dict[int, str], path: Path
) -> None:
    """Write images in a grid with their panoptic segments as a PNG.

    Args:
        maps: one an image, as from `models.postprocess.PostProcessPanoptic`.
        names: category names by id.
    """
    pairs = zip(images, maps, strict=True)
    write_grid([segments_on(image, found, names, CELL) for image, found in pairs], path)


def write_grid(pictures: Sequence[Image.Image], path: Path) -> None:
    """Write pictures whose longer sides are CELL in rows and columns as a PNG."""
    columns = max(1, min(len(pictures), MAX_COLUMNS, math.ceil(math.sqrt(2 * len(pictures)))))
    lines = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    width = columns * (CELL + GAP) + GAP
    grid = Image.new("RGB", (width, sum(_height(line) for line in lines) + GAP), "white")
    top = GAP
    for line in lines:
        for column, picture in enumerate(line):
            left = GAP + column * (CELL + GAP) + (CELL - picture.width) // 2
            grid.paste(picture, (left, top + (_height(line) - GAP - picture.height) // 2))
        top += _height(line)
    with atomic_write(path) as file:
        grid.save(file, "PNG")


def _height(line: Sequence[Image.Image]) -> int:
    """Return the height of a row of the grid, with the gap below it."""
    return max(picture.height for picture in line) + GAP
