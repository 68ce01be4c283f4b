"""Pictures of many images beside each other."""

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from util.files import atomic_write

CELL, GAP, MAX_COLUMNS = 256, 6, 6  # the first two in pixels


def write_grid(pictures: Sequence[Image.Image], path: Path) -> None:
    """Write pictures, whose longer sides are CELL, in rows and columns as a PNG."""
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
