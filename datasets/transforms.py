"""DETR's transforms and augmentation.

A transform is called with an image and a target (or None) and returns both, as the functions of
`datasets.transforms_functional`. All random numbers come from PyTorch's generator, which
`datasets.coco` seeds for each sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import transforms as tv_transforms
from torchvision.transforms.v2 import functional as F

from util.box_ops import box_xyxy_to_cxcywh

from .augmentation import parse_augmentation, transform_of
from .transforms_functional import PER_OBJECT, ImageLike, Sample, crop, hflip, pad, resize

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# DETR's sizes in pixels, for an --image_size of 800; another one scales them all.
BASE_SIZE = 800
MAX_SIZE = 1333
TRAIN_SIZES = tuple(range(480, 801, 32))
BEFORE_CROP_SIZES = (400, 500, 600)
CROP_RANGE = (384, 600)
# No ordinary image is so long when its shorter side is 600, but one that is a line of pixels.
LONGEST_BEFORE_CROP = 12_000


@dataclass
class Compose:
    """Applies transforms one after another."""

    transforms: Sequence[Callable]

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        for transform in self.transforms:
            image, target = transform(image, target)
        return image, target


@dataclass
class RandomSelect:
    """Applies `transforms1` with probability p, else `transforms2`."""

    transforms1: Callable
    transforms2: Callable
    p: float = 0.5

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        # Drawn as by torchvision's RandomChoice, so that a seed gives the samples of earlier runs.
        second = int(torch.multinomial(torch.tensor([self.p, 1 - self.p]), 1))
        return (self.transforms1, self.transforms2)[second](image, target)


@dataclass
class RandomHorizontalFlip:
    """Flips left and right with probability p."""

    p: float = 0.5

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        return hflip(image, target) if torch.rand(()) < self.p else (image, target)


@dataclass
class RandomResize:
    """Resizes to one of `sizes`, see `resize`."""

    sizes: Sequence[int | Sequence[int]]
    max_size: int | None = None

    def __call__(self, image: ImageLike, target: dict | None = None) -> Sample:
        return resize(image, target, self.sizes[_randint(0, len(self.sizes) - 1)], self.max_size)


@dataclass
class RandomCrop:
    """Crops a random place to size (height, width)."""

    size: tuple[int, int]

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        corner = [_randint(0, a - b) for a, b in zip(F.get_size(image), self.size, strict=True)]
        return crop(image, target, (*corner, *self.size))


@dataclass
class RandomSizeCrop:
    """Crops a random place, each side from min_size to max_size, at most the image's own."""

    min_size: int
    max_size: int

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        sides = F.get_size(image)
        size = [_randint(min(self.min_size, s), min(self.max_size, s)) for s in sides]
        return RandomCrop(size)(image, target)


@dataclass
class CenterCrop:
    """Crops the centre to size (height, width)."""

    size: tuple[int, int]

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        corner = [round((a - b) / 2) for a, b in zip(F.get_size(image), self.size, strict=True)]
        return crop(image, target, (*corner, *self.size))


@dataclass
class RandomPad:
    """Pads right and bottom by up to max_pad pixels each."""

    max_pad: int

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        return pad(image, target, (_randint(0, self.max_pad), _randint(0, self.max_pad)))


class ToImage:
    """Converts a PIL image to uint8 (3, H, W)."""

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        return F.to_image(image), target


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


@dataclass
class Normalize:
    """Normalises an image that is a tensor; boxes become (cx, cy, w, h) relative to it."""

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, image: Tensor, target: dict | None = None) -> Sample:
        image = F.normalize(image, self.mean, self.std)
        if target is not None and "boxes" in target:
            height, width = image.shape[-2:]
            target = {**target, "boxes": _relative(target["boxes"], height, width)}
        return image, target


class ToModelInput:
    """Ends every pipeline: normalises the image, makes boxes relative, drops empty boxes."""

    def __call__(self, image: ImageLike, target: dict | None = None) -> Sample:
        """Return image and target as `datasets.coco.CocoDetection` documents them."""
        if not isinstance(image, Tensor):
            image = F.pil_to_tensor(image)
        # Made contiguous as bytes: strided floats would slow down every step that follows.
        pixels = F.to_dtype(image.as_subclass(Tensor).contiguous(), torch.float32, scale=True)
        F.normalize(pixels, IMAGENET_MEAN, IMAGENET_STD, inplace=True)
        if target is None:
            return pixels, None
        height, width = pixels.shape[-2:]
        boxes = target["boxes"].as_subclass(Tensor)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        kept = {
            name: target[name][keep].as_subclass(Tensor) for name in PER_OBJECT if name in target
        }
        if "masks" in kept:
            kept["masks"] = kept["masks"].bool()
        kept["boxes"] = _relative(kept["boxes"], height, width)
        return pixels, {**target, **kept, "size": torch.tensor([height, width])}


def scaled(size: int, image_size: int) -> int:
    """Scale one of DETR's sizes from BASE_SIZE to `image_size`; at least 1."""
    return max(1, round(size * image_size / BASE_SIZE))


def make_coco_transforms(augment: str = "none", image_size: int = BASE_SIZE) -> Compose:
    """Build the pipeline of a split.

    Validation images are resized by Pillow, which published scores were computed with. Training
    images are resized as tensors, three to four times as fast: some values differ by 1 of 255.

    Args:
        augment: as --augment, see `datasets.augmentation`, or "none" or "val" for validation;
            "train" is "detr". ("train" and "val" are DETR's argument.)
        image_size: shorter side of validation images; DETR's other sizes scale with it.

    Raises:
        UserError: `augment` names a file that the command line did not.
    """

    def scale(sizes: Sequence[int]) -> list[int]:
        return [scaled(size, image_size) for size in sizes]

    max_size = scaled(MAX_SIZE, image_size)
    if augment in ("none", "val"):
        return Compose([RandomResize([image_size], max_size), ToModelInput()])
    preset, parts = parse_augmentation("detr" if augment == "train" else augment)
    resizing = RandomResize([image_size], max_size)
    if preset == "detr":
        resize_alone = RandomResize(scale(TRAIN_SIZES), max_size)
        before_crop = RandomResize(
            scale(BEFORE_CROP_SIZES), scaled(LONGEST_BEFORE_CROP, image_size)
        )
        crop_first = Compose([before_crop, RandomSizeCrop(*scale(CROP_RANGE)), resize_alone])
        resizing = RandomSelect(resize_alone, crop_first)
    flips = [] if preset is None else [RandomHorizontalFlip()]
    first = [transform_of(part) for part in parts]
    return Compose([ToImage(), *first, *flips, resizing, ToModelInput()])


def _relative(boxes: Tensor, height: int, width: int) -> Tensor:
    """Convert corners (n, 4) in pixels to (cx, cy, w, h) in [0, 1] of the image."""
    return box_xyxy_to_cxcywh(boxes) / torch.tensor([width, height] * 2)


def _randint(low: int, high: int) -> int:
    """Return a random integer from low to high, both included."""
    return int(torch.randint(low, high + 1, ()))
