"""instances_*.json files."""

import json
from pathlib import Path

import numpy as np

from datasets.validation.annotations import file_issues, parse_box, parse_int, parse_number
from datasets.validation.issues import Issue, short_repr
from util.errors import UserError

from .json_file import image_columns, parsed_file, unique_images
from .store import Annotations, PackedBytes

KIND = "COCO annotation file"
REQUIRED_KEYS = {
    "images": ("id", "file_name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
NO_BOX = [np.nan] * 4


def load_annotations(
    path: str | Path, num_classes: int | None = None, segmentations: bool = False
) -> Annotations:
    """Read an instances_*.json file.

    Args:
        num_classes: category ids must be below it; None allows any.
        segmentations: keep the segmentations, too.

    Raises:
        UserError: as `read_annotations`, and for the first issue that is an error.
    """
    annotations, issues = read_annotations(path, num_classes, segmentations)
    if issues:
        raise UserError(str(issues[0]))
    return annotations


def read_annotations(
    path: str | Path,
    num_classes: int | None = None,
    segmentations: bool = False,
    notes: bool = False,
) -> tuple[Annotations, list[Issue]]:
    """Read an instances_*.json file as `load_annotations` does, and return all of its issues.

    Values that cannot be used are NaN or -1 in the annotations. An annotation without an area gets
    its box's, one without iscrowd is no crowd: files made by hand often lack them.

    Args:
        notes: whether to include issues that are notes.

    Raises:
        UserError: the file is missing, no JSON, or lacks COCO's lists of images, annotations and
            categories.
    """
    path = Path(path)
    with parsed_file(path, KIND, REQUIRED_KEYS) as content:
        _check_image_ids(path, content["annotations"])
        return _pack(path, content, num_classes, segmentations, notes)


def _pack(
    path: Path, content: dict, num_classes: int | None, segmentations: bool, notes: bool
) -> tuple[Annotations, list[Issue]]:
    images, annotations = unique_images(content), content["annotations"]
    columns = image_columns(images)
    index = {image["id"]: i for i, image in enumerate(images)}
    image_index = [index.get(a["image_id"], -1) for a in annotations]  # -1: of no listed image
    # The last size is that of index -1.
    sizes = [*zip(columns["widths"].tolist(), columns["heights"].tolist(), strict=True), None]
    boxes = [parse_box(a["bbox"]) for a in annotations]
    issues = file_issues(path, content, boxes, [sizes[i] for i in image_index], num_classes, notes)

    # By image, in the file's order within each; annotations of no image come first and are dropped.
    image_index = np.array(image_index, dtype=np.int64)
    order = np.argsort(image_index, kind="stable")[np.count_nonzero(image_index < 0) :]
    starts = np.searchsorted(image_index[order], np.arange(len(images) + 1))
    ordered = [annotations[number] for number in order.tolist()]
    box_array = np.array([box or NO_BOX for box in boxes], dtype=np.float64).reshape(-1, 4)[order]
    labels = [parse_int(a["category_id"]) for a in ordered]
    packed = Annotations(
        path=path,
        **columns,
        starts=starts,
        ids=np.array([a["id"] for a in annotations], dtype=np.int64)[order],
        labels=np.array([-1 if label is None else label for label in labels], dtype=np.int64),
        crowds=np.array([bool(a.get("iscrowd")) for a in ordered], dtype=bool),
        categories=content["categories"],
        boxes=box_array,
        areas=_areas(ordered, box_array),
        segmentations=PackedBytes(map(_segmentation_text, ordered)) if segmentations else None,
    )
    return packed, issues


def _areas(annotations: list[dict], boxes: np.ndarray) -> np.ndarray:
    given = [a.get("area") for a in annotations]
    missing = np.array([area is None for area in given], dtype=bool)
    # None, which is no number either, becomes NaN.
    areas = np.array([parse_number(area) for area in given], dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(missing, boxes[:, 2] * boxes[:, 3], areas)


def _segmentation_text(annotation: dict) -> bytes:
    """Return the segmentation as JSON; empty also for [], as many files with boxes alone have."""
    segmentation = annotation.get("segmentation")
    if segmentation is None or segmentation == []:
        return b""
    return json.dumps(segmentation, separators=(",", ":")).encode()


def _check_image_ids(path: Path, annotations: list[dict]) -> None:
    for annotation in annotations:
        # A float may be a whole number, too, and finds its image.
        if type(annotation["image_id"]) not in (int, float):
            raise UserError(
                f"{path}: annotation {annotation['id']} has image_id "
                f"{short_repr(annotation['image_id'])}, not a whole number"
            )
