"""Samples made the way the published code makes them, for comparison.

pycocotools' objects give the annotations; torchvision's first transforms resize, crop and convert
one image at a time, whose random choices come from Python's generator.
"""

import contextlib
import io
import random
import zipfile
from pathlib import Path

import torch
import torchvision.transforms.functional as F
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor

from datasets.transforms import (
    BASE_SIZE,
    BEFORE_CROP_SIZES,
    CROP_RANGE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    MAX_SIZE,
    TRAIN_SIZES,
)
from datasets.transforms_functional import resized_shape
from util.box_ops import box_xyxy_to_cxcywh


class PublishedDetection(torch.utils.data.Dataset):
    """A data set of the images in the folder `root`, or in the archive beside it.

    Args:
        train: with flips, sizes and crops.
    """

    def __init__(self, root: Path, ann_file: Path, train: bool):
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO(ann_file)
        self.ids = sorted(self.coco.imgs)
        self.root = root
        self.archive = None if root.is_dir() else zipfile.ZipFile(root.with_suffix(".zip"))
        self.train = train

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        name = self.coco.loadImgs(self.ids[index])[0]["file_name"]
        if self.archive is None:
            image = Image.open(self.root / name).convert("RGB")
        else:
            content = self.archive.read(f"{self.root.name}/{name}")
            image = Image.open(io.BytesIO(content)).convert("RGB")
        target = self._target(index, *image.size)
        if self.train:
            image, target = augment(image, target)
        else:
            image, target = resize(image, target, BASE_SIZE, MAX_SIZE)
        pixels = F.normalize(F.to_tensor(image), IMAGENET_MEAN, IMAGENET_STD)
        height, width = pixels.shape[-2:]
        scale = torch.tensor([width, height, width, height])
        target["boxes"] = box_xyxy_to_cxcywh(target["boxes"]) / scale
        return pixels, target

    def _target(self, index: int, width: int, height: int) -> dict:
        entries = self.coco.loadAnns(self.coco.getAnnIds(self.ids[index]))
        entries = [entry for entry in entries if not entry.get("iscrowd")]
        boxes = torch.as_tensor([entry["bbox"] for entry in entries], dtype=torch.float32)
        boxes = boxes.reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(min=0, max=width)
        boxes[:, 1::2].clamp_(min=0, max=height)
        keep = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
        columns = {
            "labels": torch.tensor([e["category_id"] for e in entries], dtype=torch.int64),
            "area": torch.tensor([e["area"] for e in entries], dtype=torch.float32),
            "iscrowd": torch.zeros(len(entries), dtype=torch.int64),
        }
        return {
            "boxes": boxes[keep],
            **{name: column[keep] for name, column in columns.items()},
            "image_id": torch.tensor([self.ids[index]]),
            "orig_size": torch.tensor([height, width]),
            "size": torch.tensor([height, width]),
        }


def resize(
    image: Image.Image, target: dict, size: int, max_size: int | None = None
) -> tuple[Image.Image, dict]:
    before = image.size
    shape = resized_shape(image.height, image.width, size, max_size)
    image = F.resize(image, list(shape))
    ratio = [now / then for now, then in zip(image.size, before, strict=True)]
    boxes = target["boxes"] * torch.tensor([*ratio, *ratio])
    area = target["area"] * (ratio[0] * ratio[1])
    return image, {**target, "boxes": boxes, "area": area, "size": torch.tensor(shape)}


def crop(image: Image.Image, target: dict) -> tuple[Image.Image, dict]:
    width = random.randint(min(CROP_RANGE[0], image.width), min(image.width, CROP_RANGE[1]))
    height = random.randint(min(CROP_RANGE[0], image.height), min(image.height, CROP_RANGE[1]))
    left = random.randint(0, image.width - width)
    top = random.randint(0, image.height - height)
    corners = (target["boxes"] - torch.tensor([left, top, left, top])).view(-1, 2, 2)
    corners = torch.min(corners, torch.tensor([width, height])).clamp(min=0)
    keep = (corners[:, 1] > corners[:, 0]).all(dim=1)
    sizes = corners[:, 1] - corners[:, 0]
    cut = {**target, "boxes": corners.flatten(1), "area": sizes.prod(dim=1)}
    kept = {name: cut[name][keep] for name in ("boxes", "labels", "area", "iscrowd")}
    size = {"size": torch.tensor([height, width])}
    return F.crop(image, top, left, height, width), {**cut, **kept, **size}


def augment(image: Image.Image, target: dict) -> tuple[Image.Image, dict]:
    """Augment as DETR does: flip or not, then resize, or resize, crop and resize."""
    if random.random() < 0.5:
        image = F.hflip(image)
        flipped = target["boxes"][:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1])
        boxes = flipped + torch.tensor([image.width, 0, image.width, 0])
        target = {**target, "boxes": boxes}
    if random.random() < 0.5:
        return resize(image, target, random.choice(TRAIN_SIZES), MAX_SIZE)
    image, target = resize(image, target, random.choice(BEFORE_CROP_SIZES))
    image, target = crop(image, target)
    return resize(image, target, random.choice(TRAIN_SIZES), MAX_SIZE)
