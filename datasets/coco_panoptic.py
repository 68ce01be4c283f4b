"""COCO panoptic splits as datasets of (image, target)."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torchvision import tv_tensors

from util.errors import UserError

from .annotations.instances import load_annotations
from .annotations.panoptic import PanopticAnnotations, read_panoptic_annotations
from .annotations.sample_checks import check_image_size, check_segmentations
from .annotations.segment_maps import MapReader, read_segments
from .annotations.store import Annotations
from .coco import CocoDetection, split_options
from .layouts import COCO, panoptic_root
from .masks import VOID
from .validation.issues import Issue

# Below --coco_panoptic_path; the images are those of layouts.COCO.
PANOPTIC_SPLITS = {
    "train": ("panoptic_train2017", "annotations/panoptic_train2017.json"),
    "val": ("panoptic_val2017", "annotations/panoptic_val2017.json"),
}


class CocoPanoptic(CocoDetection):
    """One split of a COCO panoptic data set.

    Samples are those of `CocoDetection`, with the segments of an image, things and stuff, as its
    objects, in the order of segments_info. Boxes, areas and masks are computed from the pixels; a
    box ends after its last pixel. Crowds and segments without pixels are left out.

    Args:
        img_folder: folder of the images, or that folder's name before ".zip".
        ann_folder: folder of the PNGs whose colours are segment ids, or as img_folder.
        ann_file: panoptic_*.json.
        transforms, options: see `CocoDetection`.

    Raises:
        UserError: a file is missing or has an error.
    """

    annotations: PanopticAnnotations

    def __init__(
        self,
        img_folder: str | Path,
        ann_folder: str | Path,
        ann_file: str | Path,
        transforms: Callable[[Image.Image, dict], tuple[Tensor, dict]] | None = None,
        **options: Any,
    ):
        super().__init__(img_folder, ann_file, transforms, **options)
        self.maps = MapReader(ann_folder)
        if self._skipped is not None:
            self.maps.open_archive()  # as that of the images

    def things(self) -> set[int]:
        """Return the ids of categories whose objects can be counted; the others are stuff."""
        return {c["id"] for c in self.annotations.categories if c["isthing"]}

    def truth(self, image_id: int) -> tuple[np.ndarray, list[dict]]:
        """Return what to score an image's segments against, at the size of its map.

        Returns:
            ids (H, W) int32, 0 where there is no segment; each segment's id, category_id (int)
            and iscrowd (bool), also those of crowds and of segments without pixels.

        Raises:
            UserError: the map is missing or has an error.
            KeyError: there is no such image.
        """
        annotations = self.annotations
        index = int(np.searchsorted(annotations.image_ids, image_id))
        if index == len(annotations) or annotations.image_ids[index] != image_id:
            raise KeyError(image_id)
        size = annotations.annotated_size(index)
        numbers = read_segments(annotations, self.maps, index, *size)
        here = annotations.segments(index)
        segment_ids = annotations.ids[here].tolist()
        segments = [
            {"id": segment_id, "category_id": label, "iscrowd": crowd}
            for segment_id, label, crowd in zip(
                segment_ids,
                annotations.labels[here].tolist(),
                annotations.crowds[here].tolist(),
                strict=True,
            )
        ]
        return np.array([VOID, *segment_ids], dtype=np.int32)[numbers], segments

    def target(self, index: int, width: int, height: int) -> dict:
        """Return the target as `CocoDetection.target`.

        Raises:
            UserError: the map is missing or has an error.
        """
        annotations = self.annotations
        numbers = read_segments(annotations, self.maps, index, height, width)
        here = annotations.segments(index)
        count = here.stop - here.start
        areas = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
        kept = np.flatnonzero((areas > 0) & ~annotations.crowds[here])
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                _extents(numbers, count)[kept], format="XYXY", canvas_size=(height, width)
            ),
            "labels": torch.from_numpy(annotations.labels[here][kept]),
            "area": torch.from_numpy(areas[kept]).float(),
            "iscrowd": torch.zeros(len(kept), dtype=torch.int64),
            "image_id": torch.tensor(int(annotations.image_ids[index])),
            "orig_size": torch.tensor([height, width]),
        }
        if self.return_masks:
            masks = numbers == (1 + kept[:, None, None]).astype(np.int32)
            target["masks"] = tv_tensors.Mask(torch.from_numpy(masks.view(np.uint8)))
        return target

    def _read_annotations(
        self, ann_file: str | Path, num_classes: int | None
    ) -> tuple[PanopticAnnotations, list[Issue]]:
        return read_panoptic_annotations(ann_file, num_classes)

    def _sample_issues(self, index: int, height: int, width: int) -> Iterator[Issue]:
        issue = check_image_size(self.annotations, index, height, width)
        if issue is not None:
            yield issue


def _extents(numbers: np.ndarray, count: int) -> Tensor:
    """Return the corners (count, 4) float32 of segments 1 to count; 0 for those without pixels."""
    boxes = np.zeros((count, 4), dtype=np.float32)
    for box, found in zip(boxes, ndimage.find_objects(numbers, count), strict=True):
        if found is not None:
            rows, columns = found
            box[:] = columns.start, rows.start, columns.stop, rows.stop
    return torch.from_numpy(boxes)


def build(image_set: str, args: argparse.Namespace) -> CocoPanoptic:
    """Build the split "train" or "val" of args.coco_panoptic_path, with images of args.coco_path.

    Raises:
        UserError: data missing, not COCO's, or with categories the model has no class for.
    """
    root = panoptic_root(args)
    folder, ann_file = PANOPTIC_SPLITS[image_set]
    return CocoPanoptic(
        Path(args.coco_path) / COCO[image_set][0],
        root / folder,
        root / ann_file,
        **split_options(image_set, args),
    )


def instances_for_scoring(
    args: argparse.Namespace, panoptic: PanopticAnnotations
) -> Annotations | None:
    """Return the validation split's instances_*.json, to score boxes against; None without one.

    Args:
        panoptic: of the same split; segmentations are kept if args.masks.

    Raises:
        UserError: the file has an error, or does not list the same images.
    """
    path = Path(args.coco_path) / COCO["val"][1]
    if not path.exists():
        return None
    instances = load_annotations(path, None, args.masks)
    for one, other in ((instances, panoptic), (panoptic, instances)):
        missing = np.setdiff1d(one.image_ids, other.image_ids)
        if len(missing):
            raise UserError(
                f"{one.path} and {other.path} are not of the same images: the first lists image "
                f"{missing[0]}, the second does not"
            )
    if args.masks:
        # The samples of instances, whose reading would check this, are never read.
        instances.check_sizes("scoring of masks")
        for index in range(len(instances)):
            for issue in check_segmentations(instances, index, *instances.annotated_size(index)):
                raise UserError(str(issue))
    return instances
