"""COCO annotation files: read, checked, and packed into arrays."""

import json
from pathlib import Path

import numpy as np

from datasets.validation.annotations import annotation_columns, file_faults
from datasets.validation.faults import Fault, shown
from util.errors import UserError

from .byte_table import ByteTable
from .json_file import (
    by_image,
    content_of,
    image_columns,
    listed_images,
)
from .store import Annotations

KIND = "COCO annotation file"
REQUIRED_KEYS = {
    "images": ("id", "file_name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def load_annotations(
    path: str | Path, num_classes: int | None = None, segmentations: bool = False
) -> Annotations:
    """Read an instances_*.json file.

    Args:
        num_classes: category ids must be below it; None allows any.
        segmentations: keep the outlines, too.

    Raises:
        UserError: as `read_annotations`, and for the first fault that is an error.
    """
    annotations, faults = read_annotations(path, num_classes, segmentations)
    if faults:
        raise UserError(str(faults[0]))
    return annotations


def read_annotations(
    path: str | Path,
    num_classes: int | None = None,
    segmentations: bool = False,
    notes: bool = False,
) -> tuple[Annotations, list[Fault]]:
    """As `load_annotations`, but gives all faults that it finds: the file's, then annotations'.

    Values that cannot be used are NaN or -1 in the annotations.

    Args:
        notes: whether to include them.

    Raises:
        UserError: no such file, no JSON, or not COCO's lists of images, annotations, categories.
    """
    path = Path(path)
    with content_of(path, KIND, REQUIRED_KEYS) as content:
        _check_owners(path, content["annotations"])
        return _packed(path, content, num_classes, segmentations, notes)


def _packed(
    path: Path, content: dict, num_classes: int | None, segmentations: bool, notes: bool
) -> tuple[Annotations, list[Fault]]:
    images = listed_images(content)
    by_entry = image_columns(images)
    place = {image["id"]: i for i, image in enumerate(images)}
    annotations = content["annotations"]
    # -1: of an image that the file does not list.
    owners = np.array([place.get(a["image_id"], -1) for a in annotations], dtype=np.int64)
    sizes = np.stack([by_entry["widths"], by_entry["heights"]], 1)
    columns, unusable = annotation_columns(annotations)
    faults = file_faults(path, content, columns, unusable, owners, sizes, num_classes, notes)
    order, starts = by_image(owners, len(images))
    outlines = (_segmentation(annotations[number]) for number in order.tolist())
    packed = Annotations(
        path=path,
        **by_entry,
        starts=starts,
        ids=columns.ids[order],
        labels=columns.labels[order],
        crowds=columns.crowds[order],
        categories=content["categories"],
        boxes=columns.boxes[order],
        areas=columns.areas[order],
        segmentations=ByteTable(outlines) if segmentations else None,
    )
    return packed, faults


def _segmentation(annotation: dict) -> bytes:
    """As JSON; nothing for an empty list, too, which is how boxes alone are often written."""
    outline = annotation.get("segmentation")
    if outline is None or outline == []:
        return b""
    return json.dumps(outline, separators=(",", ":")).encode()


def _check_owners(path: Path, annotations: list[dict]) -> None:
    for annotation in annotations:
        # A float may be a whole number, too, and finds its image.
        if type(annotation["image_id"]) not in (int, float):
            raise UserError(
                f"{path}: annotation {annotation['id']} has image_id "
                f"{shown(annotation['image_id'])}, not a whole number"
            )
