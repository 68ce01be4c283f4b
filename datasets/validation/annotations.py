"""What can be wrong with the annotations of a file, asked of all of them at once."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .boxes import place_checks, value_checks
from .conversions import (
    converted,
    finite_numbers,
    four_numbers,
    whole_numbers,
)
from .faults import (
    Check,
    Fault,
    annotation_faults,
    shown,
    shown_name,
)


@dataclass
class Columns:
    """The values of N annotations, in the order of the file; see `Annotations`."""

    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray


def annotation_columns(annotations: list[dict]) -> tuple[Columns, list[Check]]:
    """The values of annotations, and what is wrong with those that are none.

    An annotation without an area gets its box's, one without iscrowd is no crowd: files made by
    hand often lack them, and scoring needs them.

    Raises:
        OverflowError: an annotation's id is too large.
    """
    boxes, bad_boxes = converted([a["bbox"] for a in annotations], four_numbers, [np.nan] * 4)
    labels, bad_labels = converted([a["category_id"] for a in annotations], whole_numbers, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        own_areas = boxes[:, 2] * boxes[:, 3]
    given = [a.get("area") for a in annotations]
    lacks = np.array([value is None for value in given], dtype=bool)
    areas = [0 if value is None else value for value in given]
    areas, bad_areas = converted(areas, finite_numbers, np.nan)
    columns = Columns(
        ids=np.array([a["id"] for a in annotations], dtype=np.int64),
        labels=labels,
        boxes=boxes,
        areas=np.where(lacks, own_areas, areas),
        crowds=np.array([bool(a.get("iscrowd")) for a in annotations], dtype=bool),
    )

    def says(name: str, wanted: str) -> Callable[[int], str]:
        return lambda i: f"has {name} {shown(annotations[i][name])}, {wanted}"

    return columns, [
        Check(bad_boxes, says("bbox", "not 4 numbers")),
        Check(bad_areas, says("area", "not a finite number")),
        Check(bad_labels, says("category_id", "which is not a whole number")),
    ]


def file_faults(
    path: Path,
    content: dict,
    columns: Columns,
    unusable: list[Check],
    owners: np.ndarray,
    sizes: np.ndarray,
    num_classes: int | None,
    notes: bool,
) -> list[Fault]:
    """All faults of an annotation file that show without its images.

    Args:
        content: of the file, with COCO's layout.
        columns, unusable: from `annotation_columns`.
        owners: (N,) int64, which image an annotation is of; -1 for none.
        sizes: (I, 2) int64, width and height of the images, 0 where the file does not tell.
        num_classes: category ids must be below it; None allows any.
        notes: whether to include them.
    """
    # The last row is that of no image.
    image_sizes = np.concatenate([sizes, np.zeros((1, 2), dtype=np.int64)])[owners]
    bad_boxes, _, bad_labels = (check.wrong for check in unusable)
    checks = [
        *unusable,
        *label_checks(columns.labels, ~bad_labels, content["categories"], num_classes),
        id_check(columns.ids),
        *(_of_usable(check, ~bad_boxes) for check in value_checks(columns.boxes)),
        *place_checks(columns.boxes, image_sizes),
        Check(owners < 0, lambda i: "which the file does not list", note="no image"),
    ]
    image_ids = [a["image_id"] for a in content["annotations"]]
    return [
        *repeated_images(path, content["images"]),
        *repeated_categories(path, content["categories"]),
        *annotation_faults(path, columns.ids, image_ids, checks, notes),
    ]


def _of_usable(check: Check, usable: np.ndarray) -> Check:
    return Check(check.wrong & usable, check.words, check.note)


def repeated_images(path: Path, images: list[dict]) -> list[Fault]:
    """Images of one id: which of them an annotation is of is not known."""
    counts = Counter(image["id"] for image in images)
    repeated = {image_id: [] for image_id, count in counts.items() if count > 1}
    if repeated:
        for image in images:
            if image["id"] in repeated:
                repeated[image["id"]].append(shown_name(image["file_name"]))
    return [
        Fault(
            str(path), f"image id {image_id} is that of {len(names)} images, {' and '.join(names)}"
        )
        for image_id, names in repeated.items()
    ]


def repeated_categories(path: Path, categories: list[dict]) -> list[Fault]:
    """Categories of one id: what objects of it are called is not known."""
    counts = Counter(category["id"] for category in categories)
    return [
        Fault(str(path), f"category id {category_id} is that of {count} categories")
        for category_id, count in counts.items()
        if count > 1
    ]


def id_check(ids: np.ndarray, kind: str = "annotations") -> Check:
    """No id (n,) int64 may be used twice, by what `kind` says."""
    _, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
    uses = counts[place.reshape(ids.shape)]
    return Check(uses > 1, lambda i: f"has an id that {uses[i]} {kind} have")


def label_checks(
    labels: np.ndarray, usable: np.ndarray, categories: list[dict], num_classes: int | None
) -> list[Check]:
    """The file must describe every category, and the model needs a class for it."""
    listed = [category["id"] for category in categories]
    unknown = usable & ~np.isin(labels, np.array(listed, dtype=np.int64))
    checks = [
        Check(
            unknown,
            lambda i: f"has category_id {labels[i]}, which is none of the file's categories",
        )
    ]
    if num_classes is not None:
        classless = usable & ~unknown & ((labels < 0) | (labels >= num_classes))

        def words(i: int) -> str:
            said = f"has category_id {labels[i]}, the model has classes 0 to {num_classes - 1}"
            if labels[i] >= num_classes:
                said += f"; give --num_classes {max(listed) + 1} or more"
            return said

        checks.append(Check(classless, words))
    return checks
