"""DETR's augmentation, on torchvision.transforms.v2.

All random numbers come from PyTorch's generator, which `datasets.coco` seeds for each sample.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from util.box_ops import box_xyxy_to_cxcywh

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# DETR's sizes in pixels, for images of 800; another --image_size scales them all.
BASE_SIZE = 800
MAX_SIZE = 1333
TRAIN_SIZES = tuple(range(480, 801, 32))
BEFORE_CROP_SIZES = (400, 500, 600)
CROP_RANGE = (384, 600)
# Of no ordinary image: only a line of pixels gets as long when its shorter side is 600.
LONGEST_BEFORE_CROP = 12_000


def resized_shape(height: int, width: int, size: int, max_size: int | None) -> tuple[int, int]:
    """Height and width with the shorter side `size`, less where the longer would pass max_size.

    The shorter side is never less than a pixel; the longer one is max_size then.
    """
    short, long = min(height, width), max(height, width)
    if max_size is not None and size * long / short > max_size:
        size = round(max_size * short / long)
        if size == 0:
            return (max_size, 1) if width < height else (1, max_size)
    if width < height:
        return int(size * height / width), size
    return size, int(size * width / height)


def scaled(size: int, image_size: int) -> int:
    """One of DETR's sizes for images of BASE_SIZE, for those of `image_size`; at least 1."""
    return max(1, round(size * image_size / BASE_SIZE))


class RandomShortestSide(v2.Transform):
    """Resize the shorter side to one of `sizes`, keeping the aspect ratio."""

    def __init__(self, sizes: tuple[int, ...], max_size: int | None = None):
        super().__init__()
        self.sizes = sizes
        self.max_size = max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        size = self.sizes[_randint(0, len(self.sizes) - 1)]
        return {"size": resized_shape(*F.get_size(flat_inputs[0]), size, self.max_size)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.resize(inpt, list(params["size"]), antialias=True)


class RandomSizeCrop(v2.Transform):
    """Crop a random place, each side between `smallest` and `largest` or the image's own."""

    def __init__(self, smallest: int, largest: int):
        super().__init__()
        self.smallest = smallest
        self.largest = largest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        image_size = F.get_size(flat_inputs[0])
        crop = [_randint(min(self.smallest, s), min(self.largest, s)) for s in image_size]
        corner = [_randint(0, s - c) for s, c in zip(image_size, crop, strict=True)]
        return {"top": corner[0], "left": corner[1], "height": crop[0], "width": crop[1]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.crop(inpt, **params)


class ToModelInput(torch.nn.Module):
    """The end of every pipeline: normalised float image, boxes relative to it, no empty box."""

    def forward(self, image: Image.Image | Tensor, target: dict) -> tuple[Tensor, dict]:
        """See `datasets.coco.CocoDetection` for what comes out."""
        if not isinstance(image, Tensor):
            image = F.pil_to_tensor(image)
        # Contiguous while it is bytes: strided floats would cost more in every step that follows.
        pixels = F.to_dtype(image.as_subclass(Tensor).contiguous(), torch.float32, scale=True)
        height, width = pixels.shape[-2:]
        boxes = target["boxes"].as_subclass(Tensor)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        kept = {
            name: target[name][keep].as_subclass(Tensor)
            for name in ("boxes", "labels", "area", "iscrowd", "masks")
            if name in target
        }
        if "masks" in kept:
            kept["masks"] = kept["masks"].bool()
        kept["boxes"] = box_xyxy_to_cxcywh(kept["boxes"]) / torch.tensor([width, height] * 2)
        size = torch.tensor([height, width])
        F.normalize(pixels, IMAGENET_MEAN, IMAGENET_STD, inplace=True)
        return pixels, {**target, **kept, "size": size}


def make_coco_transforms(augment: str = "none", image_size: int = BASE_SIZE) -> v2.Compose:
    """The pipeline of a split.

    Validation images are resized by Pillow, as published numbers want it. Those of training are
    resized as tensors, three to four times as fast: some values differ by 1 of 255.

    Args:
        augment: "detr" for DETR's flips, sizes and crops, "flip" for flips only, "none" for
            validation.
        image_size: shorter side of validation images; DETR's other sizes scale with it.
    """
    max_size = scaled(MAX_SIZE, image_size)
    if augment != "detr":
        resize = RandomShortestSide((image_size,), max_size)
        before = [v2.ToImage(), v2.RandomHorizontalFlip(p=0.5)] if augment == "flip" else []
        return v2.Compose([*before, resize, ToModelInput()])
    sizes, before_crop, crop_range = (
        tuple(scaled(size, image_size) for size in sizes)
        for sizes in (TRAIN_SIZES, BEFORE_CROP_SIZES, CROP_RANGE)
    )
    resize = RandomShortestSide(sizes, max_size)
    before = RandomShortestSide(before_crop, scaled(LONGEST_BEFORE_CROP, image_size))
    crop = v2.Compose([before, RandomSizeCrop(*crop_range), resize])
    ways = v2.RandomChoice([resize, crop])
    return v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(p=0.5), ways, ToModelInput()])


def target_boxes(boxes: np.ndarray, height: int, width: int) -> tv_tensors.BoundingBoxes:
    """COCO boxes (x, y, w, h), (n, 4) float64, as (n, 4) float32 corners clipped to the image."""
    xywh = torch.from_numpy(boxes).float()
    xyxy = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)
    limits = torch.tensor([width, height, width, height])
    return tv_tensors.BoundingBoxes(
        xyxy.clamp(min=torch.zeros(4), max=limits), format="XYXY", canvas_size=(height, width)
    )


def _randint(low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, ()))
