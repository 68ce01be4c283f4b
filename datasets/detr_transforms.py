"""DETR's transforms under DETR's names; `datasets.transforms` has them, too, as DETR's scripts do.

All take (image, target) and return both. The image is a PIL image or a tensor (..., H, W). The
target may be None or a dict with any of

    boxes   (n, 4), corners in pixels
    masks   (n, H, W)
    labels, area, iscrowd   (n,)

and "size", (height, width), is kept up to date in it. Random numbers come from PyTorch's generator,
not from Python's as in DETR.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as tv_transforms
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from util.box_ops import box_xyxy_to_cxcywh

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


def randint(low: int, high: int) -> int:
    """Return a random integer from low to high, both included."""
    return int(torch.randint(low, high + 1, ()))


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


class Compose:
    """Applies transforms one after another."""

    def __init__(self, transforms: Sequence[Callable]):
        self.transforms = transforms

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        for transform in self.transforms:
            image, target = transform(image, target)
        return image, target


class RandomSelect:
    """Applies `transforms1` with probability p, else `transforms2`."""

    def __init__(self, transforms1: Callable, transforms2: Callable, p: float = 0.5):
        self.transforms1 = transforms1
        self.transforms2 = transforms2
        self.p = p

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        transforms = self.transforms1 if _chance(self.p) else self.transforms2
        return transforms(image, target)


class RandomHorizontalFlip:
    """Flips left and right with probability p."""

    def __init__(self, p: float = 0.5):
        self.p = p

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        return hflip(image, target) if _chance(self.p) else (image, target)


class RandomResize:
    """Resizes to one of `sizes`, see `resize`."""

    def __init__(self, sizes: Sequence[int | Sequence[int]], max_size: int | None = None):
        self.sizes = sizes
        self.max_size = max_size

    def __call__(self, image: ImageLike, target: dict | None = None) -> Sample:
        return resize(image, target, self.sizes[randint(0, len(self.sizes) - 1)], self.max_size)


class RandomCrop:
    """Crops a random place to size (height, width)."""

    def __init__(self, size: tuple[int, int]):
        self.size = size

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        corner = [randint(0, a - b) for a, b in zip(F.get_size(image), self.size, strict=True)]
        return crop(image, target, (*corner, *self.size))


class RandomSizeCrop:
    """Crops a random place, each side from min_size to max_size, at most the image's own."""

    def __init__(self, min_size: int, max_size: int):
        self.min_size = min_size
        self.max_size = max_size

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        sides = F.get_size(image)
        size = [randint(min(self.min_size, s), min(self.max_size, s)) for s in sides]
        return RandomCrop(size)(image, target)


class CenterCrop:
    """Crops the centre to size (height, width)."""

    def __init__(self, size: tuple[int, int]):
        self.size = size

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        corner = [round((a - b) / 2) for a, b in zip(F.get_size(image), self.size, strict=True)]
        return crop(image, target, (*corner, *self.size))


class RandomPad:
    """Pads right and bottom by up to max_pad pixels each."""

    def __init__(self, max_pad: int):
        self.max_pad = max_pad

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        return pad(image, target, (randint(0, self.max_pad), randint(0, self.max_pad)))


class ToTensor:
    """Converts a PIL image to float32 (3, H, W) in [0, 1]."""

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        return F.to_dtype(F.to_image(image).as_subclass(Tensor), torch.float32, scale=True), target


class RandomErasing:
    """Applies torchvision's RandomErasing to an image that is a tensor; boxes stay."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.eraser = tv_transforms.RandomErasing(*args, **kwargs)

    def __call__(self, image: Tensor, target: dict | None) -> Sample:
        return self.eraser(image), target


class Normalize:
    """Normalises an image that is a tensor; boxes become (cx, cy, w, h) relative to it."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean = mean
        self.std = std

    def __call__(self, image: Tensor, target: dict | None = None) -> Sample:
        image = F.normalize(image, self.mean, self.std)
        if target is not None and "boxes" in target:
            height, width = image.shape[-2:]
            boxes = box_xyxy_to_cxcywh(target["boxes"]) / torch.tensor([width, height] * 2)
            target = {**target, "boxes": boxes}
        return image, target


def _chance(p: float) -> bool:
    return bool(torch.rand(()) < p)
