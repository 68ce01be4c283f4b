"""HTML pages that hold all they need in one file: styles, scripts, data and pictures."""

import base64
import html
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor

SCRIPTS = ("charts.js", "page.js", "images.js")
LONGEST = 480  # side of a picture, in pixels
OPACITY = 110  # of masks, of 255


def filled_page(folder: Path, title: str, data: Any) -> str:
    """The page of a folder: {{style}}, {{script}}, {{title}} and {{data}} of page.html filled in.

    Args:
        folder: holds page.html, page.css and the scripts, which come in the order charts.js,
            page.js, images.js.
        data: what JSON can say, without NaN. Nothing in it can end the script element.
    """
    return fill(
        folder / "page.html",
        data,
        style=_read(folder / "page.css"),
        script="\n".join(_read(folder / name) for name in SCRIPTS),
        title=html.escape(title),
    )


def fill(template: Path, data: Any, **parts: str) -> str:
    """A template with its {{name}} replaced by `parts`, and {{data}} by JSON for a script element.

    Nothing but "<" could end that element, so JSON's are escaped; NaN is a ValueError.
    """
    content = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {**parts, "data": content}
    # In one go: what is filled in is not searched for more.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read(template))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def shrunk(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a picture of `size` that is at most LONGEST wide and high."""
    share = min(1, LONGEST / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def picture_address(image: Image.Image) -> str:
    """A data: address of an image as JPEG, shrunk."""
    return _address(image.convert("RGB").resize(shrunk(image.size)), "JPEG", quality=82)


def masks_address(
    masks: Iterable[np.ndarray], colours: Iterable[str], size: tuple[int, int]
) -> str:
    """A data: address of masks as a transparent PNG, to be laid over a picture.

    Args:
        masks: (H, W) bool or uint8 each; later ones cover earlier ones.
        colours: one a mask, as in CSS.
        size: width and height of the image; the PNG is shrunk as the image is.
    """
    width, height = shrunk(size)
    rows = np.arange(height) * size[1] // height
    columns = np.arange(width) * size[0] // width
    canvas = np.zeros((height, width), np.uint8)
    palette = {"#000000": 0}  # by colour; the first is transparent
    for mask, colour in zip(masks, colours, strict=True):
        canvas[mask[rows[:, None], columns] > 0] = palette.setdefault(colour, len(palette))
    image = Image.fromarray(canvas, "P")
    image.putpalette([part for colour in palette for part in ImageColor.getrgb(colour)])
    opacities = bytes([0, *[OPACITY] * (len(palette) - 1)])
    return _address(image, "PNG", transparency=opacities)


def _address(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, optimize=True, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
