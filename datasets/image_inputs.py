"""Images as callers have them: paths, PIL images, arrays and tensors; all become PIL's RGB."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from util.errors import UserError

from .images import ImageReader, as_rgb
from .orientation import upright

OVERSHOOT = 0.2  # how far bicubic interpolation may leave the range from 0 to 1

ImageInput = Image.Image | np.ndarray | Tensor | str | Path


def read_image(path: Path) -> Image.Image:
    """Read an image file as PIL's RGB, turned as its EXIF orientation says.

    Raises:
        UserError: the file is missing or not an image.
    """
    return upright(ImageReader(path.parent).read(path.name))


def to_pil(image: ImageInput) -> Image.Image:
    """Return an image as PIL's RGB, turned as its EXIF orientation says.

    Raises:
        UserError: a file is missing or not an image, or an address is given.
        TypeError, ValueError: it is not an image.
    """
    if isinstance(image, str | Path):
        if re.match(r"[A-Za-z][\w+.-]+:/", str(image)) and not Path(image).exists():
            raise UserError(
                f"{image}: images are not downloaded; save it, and give the path of the file"
            )
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(_no_pixels(f"{image.height} x {image.width}"))
        return upright(as_rgb(image))
    if isinstance(image, Tensor):
        image = _to_array(image)
    if image is None:
        raise TypeError(
            "an image is None, which cv2.imread returns for a file that it cannot read: check the "
            "path, or give the path itself"
        )
    if not isinstance(image, np.ndarray):
        raise TypeError(
            "images are paths, PIL images, arrays or tensors, or a list of these, not "
            f"{type(image)}"
        )
    _check_shape(image.shape)
    if image.dtype != np.uint8:
        scaled = "(image * 255).round()" if image.dtype.kind == "f" else "image"
        limit = 1 if image.dtype.kind == "f" else 255
        raise TypeError(
            f"arrays are of uint8, not {image.dtype}: {scaled}.astype(np.uint8) converts values "
            f"from 0 to {limit}"
        )
    return Image.fromarray(image).convert("RGB")


def _no_pixels(size: str) -> str:
    return f"an image has no pixels, it is {size}: check what it was cut out of, or leave it out"


def _check_shape(shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless arrays of this shape are images."""
    if 0 in shape:
        raise ValueError(_no_pixels(f"an array {shape}"))
    if len(shape) in (2, 3) and shape[2:] in ((), (3,), (4,)):
        return
    way_out = "give RGB, or grey without an axis of channels"
    if len(shape) == 4:
        way_out = "give a batch as a list of images, list(images)"
    elif len(shape) == 3 and shape[0] in (1, 3, 4):
        way_out = "image.transpose(1, 2, 0) puts the channels last"
    raise ValueError(f"arrays are (H, W, 3) or (H, W), not {shape}: {way_out}")


def _to_array(image: Tensor) -> np.ndarray:
    """(3, H, W) of uint8, or of floats from 0 to 1 -> (H, W, 3) of uint8."""
    shape = tuple(image.shape)
    if 0 in shape:
        raise ValueError(_no_pixels(f"a tensor {shape}"))
    if image.dim() != 3 or image.shape[0] != 3:
        way_out = "image.expand(3, -1, -1) makes RGB of grey, (1, H, W)"
        if image.dim() == 4:
            way_out = "give a batch as a list of images, list(images)"
        elif image.dim() == 3 and image.shape[2] == 3:
            way_out = "image.permute(2, 0, 1) puts the channels first"
        raise ValueError(f"tensors are (3, H, W), not {shape}: {way_out}")
    if image.is_floating_point():
        low, high = (value.item() for value in image.aminmax())
        # Values a little outside come from resizing. Written so that NaN is refused as well.
        if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
            raise ValueError(
                f"tensors of floats are from 0 to 1, not from {low:g} to {high:g}: divide values "
                "from 0 to 255 by 255, and do not normalise"
            )
        image = (image.clamp(0, 1) * 255).round().byte()
    if image.dtype != torch.uint8:
        raise TypeError(
            f"tensors are of uint8 or floats, not {image.dtype}: image.byte() converts values from "
            "0 to 255"
        )
    return image.permute(1, 2, 0).cpu().numpy()
