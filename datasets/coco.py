"""COCO detection splits as datasets of (image, target)."""

import argparse
import ctypes
import hashlib
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from util.errors import UserError

from .annotations.categories import Classes, number_labels
from .annotations.instances import read_annotations
from .annotations.sample_checks import check_sample, check_segmentations
from .annotations.store import AnnotatedImages
from .augmentation import AugmentationError, with_known_labels
from .images import ImageReader
from .layouts import find_split
from .masks import decode_mask
from .orientation import read_as_annotated
from .transforms import make_coco_transforms
from .transforms_functional import target_boxes
from .validation.issues import Issue, unreadable_image


class CocoDetection(Dataset):
    """One split of a COCO-format data set.

    A sample is (image, target): the image (3, H, W) float32, normalised with ImageNet's mean and
    standard deviation; the target a dict of

        boxes     (n, 4) float32, (cx, cy, w, h) in [0, 1] of the image
        labels    (n,) int64, category ids, or their indices in category_ids
        area      (n,) float32, annotated and scaled; of the box after a crop or own transform
        iscrowd   (n,) int64, all 0
        image_id  int64 scalar
        orig_size, size   (2,) int64, height and width before and after the transforms
        masks     (n, H, W) bool, only with return_masks

    Crowd annotations and empty boxes are left out; an image without objects is kept. An image with
    an EXIF orientation is turned if only that gives its annotated size (see
    `datasets.orientation`). A sample's random choices depend on (seed, epoch, index) alone,
    whichever process makes it.

    Args:
        img_folder: folder of the images, or that folder's name before ".zip".
        ann_file: instances_*.json.
        transforms: called with (PIL image, target), see `datasets.transforms`; with None, samples
            are what `target` returns with its PIL image.
        return_masks: also give the objects' masks.
        seed: of the random choices.
        num_classes: category ids must be below it; None allows any.
        category_ids: by label, where labels are not the ids; see `datasets.annotations.categories`.
        skip_bad_images: give the next good image in place of one that cannot be read or has an
            error in the annotation file; without it, a sample's first error is a UserError.
        cache_images: keep decoded images in memory, in each process that reads them.

    Attributes:
        annotations: what ann_file says, in the order of image ids, which is that of samples.
        classes: of the model that is trained, once they are known.

    Raises:
        UserError: a file is missing or has an error.
    """

    classes: Classes | None = None

    def __init__(
        self,
        img_folder: str | Path,
        ann_file: str | Path,
        transforms: Callable[[Image.Image, dict], tuple[Tensor, dict]] | None,
        return_masks: bool = False,
        seed: int = 0,
        num_classes: int | None = None,
        category_ids: list[int] | None = None,
        skip_bad_images: bool = False,
        cache_images: bool = False,
    ):
        self.return_masks = return_masks
        self.transforms = transforms
        self.seed = seed
        self.annotations, issues = self._read_annotations(
            ann_file, num_classes if category_ids is None else None
        )
        if category_ids is not None:
            number_labels(self.annotations, category_ids)
        self._errors: dict[int, str] = {}  # of images that the annotation file shows to be bad
        self._skipped = None
        if skip_bad_images:
            self._errors = self._errors_by_index(issues)
            # In shared memory, with a lock: all processes see what any loader worker has skipped.
            # The context decides about the lock alone; one of "spawn" can be forked as well.
            spawn = multiprocessing.get_context("spawn")
            self._skipped = spawn.Array(ctypes.c_bool, len(self))
        elif issues:
            raise UserError(str(issues[0]))
        self.reader = ImageReader(img_folder)
        if skip_bad_images:
            self.reader.open_archive()  # if it is damaged, that is no error of single images
        self._cache: dict[int, tuple[Image.Image, dict]] | None = {} if cache_images else None
        # In shared memory, so that persistent loader workers see a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        """Return the sample; with skip_bad_images the next good one if it is bad."""
        if self._skipped is None:
            return self._sample(index)
        skipped = self._skipped.get_obj()  # read without the lock: a killed worker may hold it
        index = range(len(self))[index]
        for candidate in chain(range(index, len(self)), range(index)):
            if skipped[candidate]:
                continue
            try:
                return self._sample(candidate)
            except AugmentationError:
                raise
            except UserError as error:
                with self._skipped.get_lock():  # workers may meet the same image at once
                    is_new = not skipped[candidate]
                    skipped[candidate] = True
                if is_new:
                    print(f"skipped: {error}", file=sys.stderr, flush=True)
        raise UserError(f"{self.annotations.path}: all {len(self)} images are bad and were skipped")

    def skip(self, indices: Iterable[int]) -> None:
        """Skip these images, as an earlier part of the run did."""
        if self._skipped is not None:
            for index in indices:
                self._skipped.get_obj()[index] = True

    def skipped(self) -> list[int]:
        """Return the indices of images that this process and its workers have skipped so far."""
        return [] if self._skipped is None else np.flatnonzero(self._skipped.get_obj()).tolist()

    def _read_annotations(
        self, ann_file: str | Path, num_classes: int | None
    ) -> tuple[AnnotatedImages, list[Issue]]:
        return read_annotations(ann_file, num_classes, self.return_masks)

    def _errors_by_index(self, issues: list[Issue]) -> dict[int, str]:
        """Return the first error of each bad image; raise a UserError for one of the whole file."""
        index = {image_id: i for i, image_id in enumerate(self.annotations.image_ids.tolist())}
        errors: dict[int, str] = {}
        for issue in issues:
            if issue.image_id is None:
                raise UserError(str(issue))
            if issue.image_id in index:  # an annotation of no image does no harm
                errors.setdefault(index[issue.image_id], str(issue))
        return errors

    def _sample(self, index: int) -> tuple[Tensor, dict]:
        image, target = self._decoded(index)
        if self.transforms is None:
            return image, target
        key = f"{self.seed} {int(self._epoch)} {index}".encode()
        seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "little", signed=True)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return with_known_labels(self.transforms(image, target), self.classes)

    def _decoded(self, index: int) -> tuple[Image.Image, dict]:
        """Return the image and its target before the transforms, which change neither in place."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        if index in self._errors:
            raise UserError(self._errors[index])
        image = self._checked_image(index)
        decoded = image, self.target(index, *image.size)
        if self._cache is not None:
            self._cache[index] = decoded
        return decoded

    def _checked_image(self, index: int) -> Image.Image:
        """Return the image turned as annotated; raise a UserError for the sample's first error."""
        try:
            image = read_as_annotated(self.annotations, index, self.reader)
        except UserError as error:
            image_id = int(self.annotations.image_ids[index])
            issue = unreadable_image(self.annotations.path, image_id, error)
            raise UserError(str(issue)) from error
        for issue in self._sample_issues(index, image.height, image.width):
            raise UserError(str(issue))
        return image

    def _sample_issues(self, index: int, height: int, width: int) -> Iterator[Issue]:
        """Yield issues of annotations that only the image's size shows."""
        yield from check_sample(self.annotations, index, height, width)
        if self.return_masks:
            yield from check_segmentations(self.annotations, index, height, width)

    def target(self, index: int, width: int, height: int) -> dict:
        """Return the target of a sample before its transforms: boxes are corners in pixels.

        Args:
            width, height: of the image, turned as annotated.
        """
        annotations = self.annotations
        objects = annotations.objects(index)
        target = {
            "boxes": target_boxes(annotations.boxes[objects], height, width),
            "labels": torch.from_numpy(annotations.labels[objects]),
            "area": torch.from_numpy(annotations.areas[objects]).float(),
            "iscrowd": torch.zeros(len(objects), dtype=torch.int64),
            "image_id": torch.tensor(int(annotations.image_ids[index])),
            "orig_size": torch.tensor([height, width]),
        }
        if self.return_masks:
            segmentations = [annotations.segmentation(number) for number in objects]
            masks = convert_coco_poly_to_mask(segmentations, height, width)
            # uint8 is resized in less than half of the time of bool.
            target["masks"] = tv_tensors.Mask(masks.view(torch.uint8))
        return target


def convert_coco_poly_to_mask(
    segmentations: Iterable[list | dict], height: int, width: int
) -> Tensor:
    """Return the masks (n, height, width) bool of n segmentations, see `masks.decode_mask`."""
    masks = [torch.from_numpy(decode_mask(s, height, width)) for s in segmentations]
    if not masks:
        return torch.zeros(0, height, width, dtype=torch.bool)
    return torch.stack(masks).view(torch.bool)  # they are 0 and 1


class ConvertCocoPolysToMask:
    """DETR's step from COCO's annotations of an image to a target, before the transforms.

    Called with the PIL image and {"image_id": int, "annotations": [...]}, it returns the image and
    a target as `CocoDetection.target` does, without empty boxes; with "size" as well, image_id
    (1,), and keypoints (n, K, 3) float32 if the annotations have them.
    """

    def __init__(self, return_masks: bool = False):
        self.return_masks = return_masks

    def __call__(self, image: Image.Image, target: dict) -> tuple[Image.Image, dict]:
        width, height = image.size
        objects = [a for a in target["annotations"] if not a.get("iscrowd")]
        xywh = np.array([a["bbox"] for a in objects], dtype=np.float64).reshape(-1, 4)
        boxes = target_boxes(xywh, height, width)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        objects = [a for a, kept in zip(objects, keep.tolist(), strict=True) if kept]
        size = torch.tensor([height, width])
        converted = {
            "boxes": tv_tensors.wrap(boxes[keep], like=boxes),
            "labels": torch.tensor([a["category_id"] for a in objects], dtype=torch.int64),
            "area": torch.tensor([a["area"] for a in objects], dtype=torch.float32),
            "iscrowd": torch.zeros(len(objects), dtype=torch.int64),
            "image_id": torch.tensor([target["image_id"]]),
            "orig_size": size,
            "size": size,
        }
        if self.return_masks:
            segmentations = [a["segmentation"] for a in objects]
            masks = convert_coco_poly_to_mask(segmentations, height, width)
            converted["masks"] = tv_tensors.Mask(masks)
        if objects and "keypoints" in objects[0]:
            keypoints = torch.tensor([a["keypoints"] for a in objects], dtype=torch.float32)
            converted["keypoints"] = keypoints.view(len(objects), -1, 3)
        return image, converted


def split_options(image_set: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `CocoDetection` that `args` give for a split, besides its files."""
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
    """Build the split "train", "val" or "test" of the data that `args` name.

    Raises:
        UserError: data missing, not COCO's, or with categories the model has no class for.
    """
    return CocoDetection(*find_split(image_set, args), **split_options(image_set, args))
