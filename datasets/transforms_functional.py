"""DETR's transforms as functions, on torchvision.transforms.v2.functional.

They take and return an image, which is a PIL image or a tensor (..., H, W), and a target, which is
None or a dict with any of

    boxes   (n, 4), corners in pixels
    masks   (n, H, W)
    labels, area, iscrowd   (n,)

and "size", (height, width), is kept up to date in it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

ImageLike = Image.Image | Tensor
Sample = tuple[ImageLike, dict | None]
PER_OBJECT = ("boxes", "labels", "area", "iscrowd", "masks")


def resized_shape(height: int, width: int, size: int, max_size: int | None) -> tuple[int, int]:
    """Return height and width with the shorter side `size`, or less if the longer exceeds max_size.

    If the shorter side would be less than a pixel, it is 1 and the longer one max_size.
    """
    short, long = min(height, width), max(height, width)
    if max_size is not None and size * long / short > max_size:
        size = round(max_size * short / long)
        if size == 0:
            return (max_size, 1) if width < height else (1, max_size)
    if width < height:
        return int(size * height / width), size
    return size, int(size * width / height)


def _apply(function: Callable, image: ImageLike, target: dict | None, **options: Any) -> Sample:
    """Apply a function of torchvision's to the image and to the target's boxes and masks."""
    size = F.get_size(image)
    image = function(image, **options)
    if target is None:
        return image, None
    target = {**target, "size": torch.tensor(F.get_size(image))}
    if "boxes" in target:
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size)
        target["boxes"] = function(boxes, **options).as_subclass(Tensor)
    if "masks" in target:
        masks = tv_tensors.Mask(target["masks"].to(torch.uint8))
        target["masks"] = function(masks, **options).as_subclass(Tensor).to(target["masks"].dtype)
    return image, target


def crop(image: ImageLike, target: dict | None, region: Sequence[int]) -> Sample:
    """Crop to region (top, left, height, width), and drop objects of which nothing is left.

    Areas become those of the boxes.
    """
    top, left, height, width = region
    image, target = _apply(F.crop, image, target, top=top, left=left, height=height, width=width)
    if target is None:
        return image, None
    if "boxes" in target:
        sizes = (target["boxes"][:, 2:] - target["boxes"][:, :2]).clamp(min=0)
        target["area"] = sizes.prod(dim=1)
        keep = target["area"] > 0
    elif "masks" in target:
        keep = target["masks"].flatten(1).any(dim=1)
    else:
        return image, target
    return image, target | {name: target[name][keep] for name in PER_OBJECT if name in target}


def hflip(image: ImageLike, target: dict | None) -> Sample:
    """Flip left and right."""
    return _apply(F.horizontal_flip, image, target)


def resize(
    image: ImageLike,
    target: dict | None,
    size: int | Sequence[int],
    max_size: int | None = None,
) -> Sample:
    """Resize to `size`, (width, height) or the shorter side's; areas are scaled.

    Args:
        max_size: the longer side's limit, where `size` is that of the shorter side.
    """
    before = F.get_size(image)
    shape = resized_shape(*before, size, max_size) if isinstance(size, int) else size[::-1]
    image, target = _apply(F.resize, image, target, size=list(shape), antialias=True)
    if target is not None and "area" in target:
        scale = shape[0] / before[0] * (shape[1] / before[1])
        target["area"] = target["area"] * scale
    return image, target


def pad(image: ImageLike, target: dict | None, padding: tuple[int, int]) -> Sample:
    """Pad with zeros, padding[0] pixels on the right and padding[1] below."""
    return _apply(F.pad, image, target, padding=[0, 0, *padding])


def target_boxes(boxes: np.ndarray, height: int, width: int) -> tv_tensors.BoundingBoxes:
    """Convert COCO boxes (x, y, w, h), (n, 4) float64, to (n, 4) float32 corners in the image."""
    xywh = torch.from_numpy(boxes).float()
    xyxy = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)
    limits = torch.tensor([width, height, width, height])
    return tv_tensors.BoundingBoxes(
        xyxy.clamp(min=torch.zeros(4), max=limits), format="XYXY", canvas_size=(height, width)
    )
