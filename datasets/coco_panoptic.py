"""COCO panoptic splits as datasets of (image, target)."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torchvision import tv_tensors
from torchvision.transforms import v2

from util.errors import UserError

from .annotations.instances import load_annotations
from .annotations.panoptic import PanopticAnnotations, read_panoptic_annotations
from .annotations.sample_checks import outline_faults, told_size_fault
from .annotations.segment_maps import MapReader, read_segments
from .annotations.store import Annotations
from .coco import CocoDetection, split_options
from .layouts import COCO
from .panoptic_ids import VOID
from .validation.faults import Fault

# Below --coco_panoptic_path; the images are those of layouts.COCO.
PANOPTIC_SPLITS = {
    "train": ("panoptic_train2017", "annotations/panoptic_train2017.json"),
    "val": ("panoptic_val2017", "annotations/panoptic_val2017.json"),
}


class CocoPanoptic(CocoDetection):
    """One split of a COCO panoptic data set.

    Samples are those of `CocoDetection`, with the segments of an image, things and stuff, as its
    objects, in the order of segments_info. Boxes, areas and masks are those of the pixels; a box
    ends after its last pixel. Crowds and segments without pixels are left out.

    Args:
        images: folder of the images, or that folder's name before ".zip".
        maps: the same of the PNGs that say which segment a pixel belongs to.
        ann_file: panoptic_*.json.
        transforms, options: see `CocoDetection`.

    Raises:
        UserError: a file is missing or faulty.
    """

    annotations: PanopticAnnotations

    def __init__(
        self,
        images: str | Path,
        maps: str | Path,
        ann_file: str | Path,
        transforms: v2.Transform,
        **options: Any,
    ):
        super().__init__(images, ann_file, transforms, **options)
        self.maps = MapReader(maps)
        if self._skipped is not None:
            self.maps.open_archive()  # as that of the images

    def things(self) -> set[int]:
        """Ids of the categories whose objects can be counted; the others are stuff."""
        return {c["id"] for c in self.annotations.categories if c["isthing"]}

    def truth(self, image_id: int) -> tuple[np.ndarray, list[dict]]:
        """What to score an image's segments against, at the size of its map.

        Returns:
            ids (H, W) int32, 0 where there is no segment; each segment's id, category_id (int)
            and iscrowd (bool), also those of crowds and of segments without pixels.

        Raises:
            UserError: the map is missing or faulty.
            KeyError: there is no such image.
        """
        known = self.annotations
        index = int(np.searchsorted(known.image_ids, image_id))
        if index == len(known) or known.image_ids[index] != image_id:
            raise KeyError(image_id)
        told = int(known.heights[index]), int(known.widths[index])
        numbers = read_segments(known, self.maps, index, *told)
        here = known.segments(index)
        ids = np.concatenate([[VOID], known.ids[here]]).astype(np.int32)
        columns = zip(
            known.ids[here].tolist(), known.labels[here].tolist(), known.crowds[here].tolist(),
            strict=True,
        )  # fmt: skip
        names = ("id", "category_id", "iscrowd")
        return ids[numbers], [dict(zip(names, row, strict=True)) for row in columns]

    def target(self, index: int, width: int, height: int) -> dict:
        """As `CocoDetection.target`; a UserError for the first fault of the map."""
        known = self.annotations
        numbers = read_segments(known, self.maps, index, height, width)
        here = known.segments(index)
        count = here.stop - here.start
        areas = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
        kept = np.flatnonzero((areas > 0) & ~known.crowds[here])
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                _extents(numbers, count)[kept], format="XYXY", canvas_size=(height, width)
            ),
            "labels": torch.from_numpy(known.labels[here][kept]),
            "area": torch.from_numpy(areas[kept]).float(),
            "iscrowd": torch.zeros(len(kept), dtype=torch.int64),
            "image_id": torch.tensor(int(known.image_ids[index])),
            "orig_size": torch.tensor([height, width]),
        }
        if self.return_masks:
            masks = numbers == (1 + kept[:, None, None]).astype(np.int32)
            target["masks"] = tv_tensors.Mask(torch.from_numpy(masks.view(np.uint8)))
        return target

    def _read_annotations(
        self, ann_file: str | Path, num_classes: int | None
    ) -> tuple[PanopticAnnotations, list[Fault]]:
        return read_panoptic_annotations(ann_file, num_classes)

    def _sample_faults(self, index: int, height: int, width: int) -> Iterator[Fault]:
        fault = told_size_fault(self.annotations, index, height, width)
        if fault is not None:
            yield fault


def _extents(numbers: np.ndarray, count: int) -> torch.Tensor:
    """Corners (count, 4) float32 of what has the numbers 1 to count; 0 of what has no pixel."""
    boxes = np.zeros((count, 4), dtype=np.float32)
    for box, found in zip(boxes, ndimage.find_objects(numbers, count), strict=True):
        if found is not None:
            rows, columns = found
            box[:] = columns.start, rows.start, columns.stop, rows.stop
    return torch.from_numpy(boxes)


def panoptic_root(args: argparse.Namespace) -> Path:
    """The folder --coco_panoptic_path; a UserError if it is not given or not there."""
    if not args.coco_panoptic_path:
        raise UserError(
            "--coco_panoptic_path is missing, which --dataset_file coco_panoptic needs: the folder "
            "with annotations/panoptic_*.json and panoptic_train2017, panoptic_val2017"
        )
    root = Path(args.coco_panoptic_path)
    if not root.is_dir():
        raise UserError(f"--coco_panoptic_path {root}: no such folder")
    return root


def build(image_set: str, args: argparse.Namespace) -> CocoPanoptic:
    """The split "train" or "val" of args.coco_panoptic_path, with the images of args.coco_path.

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
    """The validation split's instances_*.json, to score boxes against; None if there is none.

    Args:
        panoptic: of the same split; outlines are kept if args.masks.

    Raises:
        UserError: the file is faulty, or does not list the same images.
    """
    path = Path(args.coco_path) / COCO["val"][1]
    if not path.exists():
        return None
    instances = load_annotations(path, None, args.masks)
    for one, other in ((instances, panoptic), (panoptic, instances)):
        lacks = np.setdiff1d(one.image_ids, other.image_ids)
        if len(lacks):
            raise UserError(
                f"{one.path} and {other.path} are not of the same images: the first lists image "
                f"{lacks[0]}, the second does not"
            )
    if args.masks:
        # Samples of instances are checked when they are read; none of these is.
        instances.check_sizes("scoring of masks")
        for index in range(len(instances)):
            size = int(instances.heights[index]), int(instances.widths[index])
            for fault in outline_faults(instances, index, *size):
                raise UserError(str(fault))
    return instances
