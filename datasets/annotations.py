"""COCO annotation files: read, checked, and packed into arrays."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import UserError

from .annotation_store import Annotations
from .byte_table import ByteTable

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
        UserError: no such file, no JSON, not COCO's lists of images, annotations, categories, or
            an entry with a value that cannot be used; the message names it.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such annotation file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error})") from error
    _check_layout(path, content)
    for annotation in content["annotations"]:
        _complete(path, annotation)
    _check_categories(path, content, num_classes)
    try:
        return _packed(path, content, segmentations)
    except OverflowError as error:
        raise UserError(f"{path}: an id or a number in it is too large ({error})") from error


def _packed(path: Path, content: dict, segmentations: bool) -> Annotations:
    images = {image["id"]: image for image in content["images"]}
    image_ids = sorted(images)
    images = [images[image_id] for image_id in image_ids]
    place = {image_id: i for i, image_id in enumerate(image_ids)}
    annotations = content["annotations"]
    # -1: of an image that the file does not list.
    owners = np.array([place.get(a["image_id"], -1) for a in annotations], dtype=np.int64)
    order = np.argsort(owners, kind="stable")[np.count_nonzero(owners < 0) :]
    annotations = [annotations[number] for number in order.tolist()]
    return Annotations(
        path=path,
        image_ids=np.array(image_ids, dtype=np.int64),
        file_names=ByteTable(i["file_name"].encode("utf-8", "surrogatepass") for i in images),
        heights=_sides(images, "height"),
        widths=_sides(images, "width"),
        starts=np.searchsorted(owners[order], np.arange(len(images) + 1)),
        ids=np.array([a["id"] for a in annotations], dtype=np.int64),
        labels=np.array([a["category_id"] for a in annotations], dtype=np.int64),
        boxes=np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4),
        areas=np.array([a["area"] for a in annotations], dtype=np.float64),
        crowds=np.array([bool(a["iscrowd"]) for a in annotations], dtype=bool),
        segmentations=ByteTable(map(_segmentation, annotations)) if segmentations else None,
        categories=content["categories"],
    )


def _sides(images: list[dict], name: str) -> np.ndarray:
    """Heights or widths; 0 where there is none."""
    sides = (image.get(name) for image in images)
    return np.array([side if type(side) is int else 0 for side in sides], dtype=np.int64)


def _segmentation(annotation: dict) -> bytes:
    if "segmentation" not in annotation:
        return b""
    return json.dumps(annotation["segmentation"], separators=(",", ":")).encode()


def _check_layout(path: Path, content: object) -> None:
    for name, keys in REQUIRED_KEYS.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise UserError(f"{path}: not a COCO annotation file, it has no list {name!r}")
        for i, entry in enumerate(entries):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise UserError(
                    f"{path}: not a COCO annotation file, {name}[{i}] lacks {missing[0]!r}"
                )
            if type(entry["id"]) is not int:
                raise UserError(f"{path}: {name}[{i}] has id {entry['id']!r}, not a whole number")
    for image in content["images"]:
        if not isinstance(image["file_name"], str):
            raise UserError(
                f"{path}: image {image['id']} has file_name {image['file_name']!r}, not a text"
            )


def _complete(path: Path, annotation: dict) -> None:
    """Check what is used, and add what scoring needs and files made by hand often lack."""

    def refuse(name: str, wanted: str) -> None:
        raise UserError(
            f"{path}: annotation {annotation['id']} has {name} {annotation[name]}, not {wanted}"
        )

    box = annotation["bbox"]
    if not isinstance(box, list) or [_is_number(v) for v in box] != [True] * 4:
        refuse("bbox", "4 numbers")
    annotation.setdefault("area", box[2] * box[3])
    annotation.setdefault("iscrowd", 0)
    if not _is_number(annotation["area"]):
        refuse("area", "a number")
    if isinstance(annotation["image_id"], (list, dict)):
        refuse("image_id", "a whole number")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _check_categories(path: Path, content: dict, num_classes: int | None) -> None:
    """The model needs a class for every annotation."""
    for annotation in content["annotations"]:
        category = annotation["category_id"]
        if not isinstance(category, int):
            said = "which is not a whole number"
        elif num_classes is None or 0 <= category < num_classes:
            continue
        else:
            said = f"the model has classes 0 to {num_classes - 1}"
            if category >= num_classes:
                needed = max((entry["id"] for entry in content["categories"]), default=category) + 1
                said += f"; give --num_classes {needed} or more"
        raise UserError(f"{path}: annotation {annotation['id']} has category_id {category}, {said}")
