"""COCO detection splits as datasets of (image, target)."""

import argparse
import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from util.errors import UserError

from .annotations.categories import number_labels
from .annotations.instances import read_annotations
from .annotations.masks import to_mask
from .annotations.sample_checks import outline_faults, sample_faults
from .annotations.store import AnnotatedImages
from .images import ImageReader
from .layouts import find_split
from .orientation import read_as_annotated
from .transforms import make_coco_transforms, target_boxes
from .validation.faults import Fault, reading_fault


class CocoDetection(Dataset):
    """One split of a COCO-format data set.

    A sample is (image, target): the image (3, H, W) float32, normalised with ImageNet's mean and
    deviation; the target a dict of

        boxes     (n, 4) float32, (cx, cy, w, h) in [0, 1] of the image
        labels    (n,) int64, category ids, or places in category_ids
        area      (n,) float32, as annotated, in pixels of the original image
        iscrowd   (n,) int64, all 0
        image_id  int64 scalar
        orig_size, size   (2,) int64, height and width before and after the transforms
        masks     (n, H, W) bool, only with return_masks

    Crowd annotations and empty boxes are left out; an image without objects is kept. Which way up
    an image is, its annotated size says (see `datasets.orientation`). The random
    choices of a sample depend on (seed, epoch, index) alone, whatever process makes it.

    Args:
        images: folder of the images, or that folder's name before ".zip".
        ann_file: instances_*.json.
        transforms: pipeline on (PIL image, target), see `datasets.transforms`.
        return_masks: also give the objects' masks.
        seed: of the random choices.
        num_classes: category ids must be below it; None allows any.
        category_ids: by label, where labels are not the ids; see `datasets.annotations.categories`.
        skip_bad_images: give the next good image in place of one that cannot be read or has a
            fault in the annotation file; without it, a sample's first fault is a UserError.

    Attributes:
        annotations: what ann_file says, in the order of image ids, as samples are.

    Raises:
        UserError: a file is missing or faulty.
    """

    def __init__(
        self,
        images: str | Path,
        ann_file: str | Path,
        transforms: v2.Transform,
        return_masks: bool = False,
        seed: int = 0,
        num_classes: int | None = None,
        category_ids: list[int] | None = None,
        skip_bad_images: bool = False,
        cache_images: bool = False,
    ):
        # In each process that reads: loader workers share nothing that they decode.
        self._cache: dict[int, tuple[Image.Image, dict]] | None = {} if cache_images else None
        self._bad: dict[int, str] = {}
        self._skipped: Tensor | None = None
        self.return_masks = return_masks
        if category_ids is not None:
            num_classes = None
        self.annotations, faults = self._read_annotations(ann_file, num_classes)
        if category_ids is not None:
            number_labels(self.annotations, category_ids)
        if skip_bad_images:
            self._bad = self._bad_images(faults)
            # In shared memory, so that all processes see what loader workers have skipped.
            self._skipped = torch.zeros(len(self), dtype=torch.uint8).share_memory_()
            # Of a kind that forked and spawned workers can share.
            self._skipping = torch.multiprocessing.get_context("spawn").Lock()
        elif faults:
            raise UserError(str(faults[0]))
        self.reader = ImageReader(images)
        if skip_bad_images:
            self.reader.open_archive()  # if it is damaged, that is not the fault of each image
        self.transforms = transforms
        self.seed = seed
        # In shared memory, so that loader workers that are already running see a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        """The sample, or the next good one's; a UserError if there is none."""
        if self._skipped is None:
            return self._sample(index)
        index = range(len(self))[index]
        from_here = np.roll(self._skipped.numpy(), -index)
        for step in np.flatnonzero(from_here == 0).tolist():
            place = (index + step) % len(self)
            try:
                return self._sample(place)
            except UserError as error:
                with self._skipping:  # workers may come upon it at once
                    is_news = not self._skipped[place]
                    self._skipped[place] = 1
                if is_news:
                    print(f"skipped: {error}", file=sys.stderr, flush=True)
        raise UserError(f"{self.annotations.path}: all {len(self)} images are bad and were skipped")

    def skip(self, indices: Iterable[int]) -> None:
        """Count these images as skipped, as an earlier part of the run did."""
        if self._skipped is not None:
            self._skipped[list(indices)] = 1

    def skipped(self) -> list[int]:
        """Indices of the images that this process and its workers have skipped so far."""
        return [] if self._skipped is None else self._skipped.nonzero().flatten().tolist()

    def _read_annotations(
        self, ann_file: str | Path, num_classes: int | None
    ) -> tuple[AnnotatedImages, list[Fault]]:
        return read_annotations(ann_file, num_classes, self.return_masks)

    def _sample(self, index: int) -> tuple[Tensor, dict]:
        image, target = self._decoded(index)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._sample_seed(index))
            return self.transforms(image, target)

    def _decoded(self, index: int) -> tuple[Image.Image, dict]:
        """Read the image and its target, as they are before the transforms, which copy both."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        if index in self._bad:
            raise UserError(self._bad[index])
        image = self._checked_image(index)
        decoded = image, self.target(index, *image.size)
        if self._cache is not None:
            self._cache[index] = decoded
        return decoded

    def _checked_image(self, index: int) -> Image.Image:
        """The image as annotated; a UserError for the first fault of its sample."""
        known = self.annotations
        try:
            image = read_as_annotated(known, index, self.reader)
        except UserError as error:
            fault = reading_fault(known.path, int(known.image_ids[index]), error)
            raise UserError(str(fault)) from error
        width, height = image.size
        for fault in self._sample_faults(index, height, width):
            raise UserError(str(fault))
        return image

    def _sample_faults(self, index: int, height: int, width: int) -> Iterator[Fault]:
        """What is wrong with annotations, now that the image's size is known."""
        known = self.annotations
        yield from sample_faults(known, index, height, width)
        if self.return_masks:
            yield from outline_faults(known, index, height, width)

    def _bad_images(self, faults: list[Fault]) -> dict[int, str]:
        """The first fault of each bad image, by index; a UserError for one of no single image."""
        place = {image_id: i for i, image_id in enumerate(self.annotations.image_ids.tolist())}
        bad: dict[int, str] = {}
        for fault in faults:
            if fault.image_id is None:
                raise UserError(str(fault))
            if fault.image_id in place:  # an annotation of no image does no harm
                bad.setdefault(place[fault.image_id], str(fault))
        return bad

    def _sample_seed(self, index: int) -> int:
        key = f"{self.seed} {int(self._epoch)} {index}".encode()
        return int.from_bytes(hashlib.sha256(key).digest()[:8], "little", signed=True)

    def target(self, index: int, width: int, height: int) -> dict:
        """The target of a sample before its transforms: boxes are corners in pixels.

        Args:
            width, height: of the image as annotated.
        """
        known = self.annotations
        objects = known.objects(index)
        target = {
            "boxes": target_boxes(known.boxes[objects], height, width),
            "labels": torch.from_numpy(known.labels[objects]),
            "area": torch.from_numpy(known.areas[objects]).float(),
            "iscrowd": torch.zeros(len(objects), dtype=torch.int64),
            "image_id": torch.tensor(int(known.image_ids[index])),
            "orig_size": torch.tensor([height, width]),
        }
        if self.return_masks:
            masks = [
                torch.from_numpy(to_mask(known.segmentation(n), height, width)) for n in objects
            ]
            empty = torch.zeros(0, height, width, dtype=torch.uint8)
            # Bytes, which are resized in less than half of the time of bool.
            target["masks"] = tv_tensors.Mask(torch.stack(masks) if masks else empty)
        return target


def split_options(image_set: str, args: argparse.Namespace) -> dict[str, Any]:
    """What `args` say of a split, besides its files: arguments of `CocoDetection`."""
    training = image_set == "train"
    return {
        "transforms": make_coco_transforms(args.augment if training else "none", args.image_size),
        "return_masks": args.masks,
        "seed": args.seed,
        "num_classes": args.num_classes,
        "category_ids": args.category_ids,
        "skip_bad_images": args.skip_bad_images and training,
        "cache_images": args.cache_images and training,
    }


def build(image_set: str, args: argparse.Namespace) -> CocoDetection:
    """The split "train" or "val" of the data that `args` name.

    Raises:
        UserError: data missing, not COCO's, or with categories the model has no class for.
    """
    return CocoDetection(*find_split(image_set, args), **split_options(image_set, args))
