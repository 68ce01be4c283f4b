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

from .detr_transforms import (  # noqa: F401  DETR's names, for scripts that import them from here
    CenterCrop,
    Compose,
    Normalize,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomPad,
    RandomResize,
    RandomSelect,
    RandomSizeCrop,
    ToTensor,
    crop,
    hflip,
    pad,
    randint,
    resize,
    resized_shape,
)

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


def scaled(size: int, image_size: int) -> int:
    """Scale one of DETR's sizes from BASE_SIZE to `image_size`; at least 1."""
    return max(1, round(size * image_size / BASE_SIZE))


class RandomShortestSide(v2.Transform):
    """Resizes the shorter side to one of `sizes`, keeping the aspect ratio."""

    def __init__(self, sizes: tuple[int, ...], max_size: int | None = None):
        super().__init__()
        self.sizes = sizes
        self.max_size = max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        size = self.sizes[randint(0, len(self.sizes) - 1)]
        return {"size": resized_shape(*F.get_size(flat_inputs[0]), size, self.max_size)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.resize(inpt, list(params["size"]), antialias=True)


class RandomRectangle(v2.Transform):
    """Crops a random rectangle, each side from `smallest` to `largest`, at most the image's own."""

    def __init__(self, smallest: int, largest: int):
        super().__init__()
        self.smallest = smallest
        self.largest = largest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        image_size = F.get_size(flat_inputs[0])
        size = [randint(min(self.smallest, s), min(self.largest, s)) for s in image_size]
        corner = [randint(0, s - c) for s, c in zip(image_size, size, strict=True)]
        return {"top": corner[0], "left": corner[1], "height": size[0], "width": size[1]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.crop(inpt, **params)


class ToModelInput(torch.nn.Module):
    """Ends every pipeline: normalises the image, makes boxes relative, drops empty boxes."""

    def forward(
        self, image: Image.Image | Tensor, target: dict | None = None
    ) -> tuple[Tensor, dict | None]:
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
            name: target[name][keep].as_subclass(Tensor)
            for name in ("boxes", "labels", "area", "iscrowd", "masks")
            if name in target
        }
        if "masks" in kept:
            kept["masks"] = kept["masks"].bool()
        kept["boxes"] = box_xyxy_to_cxcywh(kept["boxes"]) / torch.tensor([width, height] * 2)
        return pixels, {**target, **kept, "size": torch.tensor([height, width])}


def make_coco_transforms(augment: str = "none", image_size: int = BASE_SIZE) -> v2.Compose:
    """Build the pipeline of a split.

    Validation images are resized by Pillow, which published scores were computed with. Training
    images are resized as tensors, three to four times as fast: some values differ by 1 of 255.

    Args:
        augment: "detr" or "train" for DETR's flips, sizes and crops, "flip" for flips only, "none"
            or "val" for validation. ("train" and "val" are DETR's argument.)
        image_size: shorter side of validation images; DETR's other sizes scale with it.
    """
    augment = {"train": "detr", "val": "none"}.get(augment, augment)
    max_size = scaled(MAX_SIZE, image_size)
    if augment != "detr":
        resized = RandomShortestSide((image_size,), max_size)
        before = [v2.ToImage(), v2.RandomHorizontalFlip(p=0.5)] if augment == "flip" else []
        return v2.Compose([*before, resized, ToModelInput()])
    sizes, before_crop, crop_range = (
        tuple(scaled(size, image_size) for size in sizes)
        for sizes in (TRAIN_SIZES, BEFORE_CROP_SIZES, CROP_RANGE)
    )
    resized = RandomShortestSide(sizes, max_size)
    enlarged = RandomShortestSide(before_crop, scaled(LONGEST_BEFORE_CROP, image_size))
    cropped = v2.Compose([enlarged, RandomRectangle(*crop_range), resized])
    either = v2.RandomChoice([resized, cropped])
    return v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(p=0.5), either, ToModelInput()])


def target_boxes(boxes: np.ndarray, height: int, width: int) -> tv_tensors.BoundingBoxes:
    """Convert COCO boxes (x, y, w, h), (n, 4) float64, to (n, 4) float32 corners in the image."""
    xywh = torch.from_numpy(boxes).float()
    xyxy = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)
    limits = torch.tensor([width, height, width, height])
    return tv_tensors.BoundingBoxes(
        xyxy.clamp(min=torch.zeros(4), max=limits), format="XYXY", canvas_size=(height, width)
    )
