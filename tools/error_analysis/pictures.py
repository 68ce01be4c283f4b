"""Images and masks as data: URLs, for pages that hold their pictures."""

import base64
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageColor

MAX_SIDE = 480  # pixels
MASK_OPACITY = 110  # of 255


def image_url(image: Image.Image) -> str:
    """Return an image, shrunk to MAX_SIDE, as the data: URL of a JPEG."""
    return data_url(image.convert("RGB").resize(_shrunk(image.size)), "JPEG", quality=82)


def masks_url(masks: Iterable[np.ndarray], colours: Iterable[str], size: tuple[int, int]) -> str:
    """Return masks as the data: URL of a transparent PNG, to be laid over an image.

    Args:
        masks: (H, W) bool or uint8 each; later ones cover earlier ones.
        colours: one a mask, as in CSS.
        size: width and height of the image; the PNG is shrunk as the image is.
    """
    width, height = _shrunk(size)
    rows = np.arange(height) * size[1] // height
    columns = np.arange(width) * size[0] // width
    canvas = np.zeros((height, width), np.uint8)
    palette = {"#000000": 0}  # index by colour; index 0 is transparent
    for mask, colour in zip(masks, colours, strict=True):
        canvas[mask[rows[:, None], columns] > 0] = palette.setdefault(colour, len(palette))
    image = Image.fromarray(canvas, "P")
    image.putpalette([part for colour in palette for part in ImageColor.getrgb(colour)])
    opacities = bytes([0, *[MASK_OPACITY] * (len(palette) - 1)])
    return data_url(image, "PNG", transparency=opacities)


def _shrunk(size: tuple[int, int]) -> tuple[int, int]:
    share = min(1, MAX_SIDE / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def data_url(image: Image.Image, kind: str, **options: Any) -> str:
    """Return an image as the data: URL of a file of this kind, PNG or JPEG."""
    file = io.BytesIO()
    image.save(file, kind, optimize=True, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
