"""Images as callers have them: paths, PIL images, arrays and tensors; all become PIL's RGB."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .images import ImageReader, as_rgb
from .orientation import upright

OVERSHOOT = 0.2  # how far bicubic interpolation may leave the range from 0 to 1
# Of the images in a folder; files that are named themselves may have any suffix.
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"}

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
        UserError: a file is missing or not an image.
        TypeError, ValueError: it is not an image.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"an image has no pixels: it is {image.height} x {image.width}")
        return upright(as_rgb(image))
    if isinstance(image, Tensor):
        image = _to_array(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"images are paths, PIL images, arrays or tensors, not {type(image)}")
    if image.dtype != np.uint8:
        raise TypeError(f"arrays are of uint8, not {image.dtype}")
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)) or not image.size:
        raise ValueError(f"arrays are (H, W, 3) or (H, W), not {image.shape}")
    return Image.fromarray(image).convert("RGB")


def _to_array(image: Tensor) -> np.ndarray:
    """(3, H, W) of uint8, or of floats from 0 to 1 -> (H, W, 3) of uint8."""
    if image.dim() != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(f"tensors are (3, H, W), not {tuple(image.shape)}")
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
        raise TypeError(f"tensors are of uint8 or floats, not {image.dtype}")
    return image.permute(1, 2, 0).cpu().numpy()
