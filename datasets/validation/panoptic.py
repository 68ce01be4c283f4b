"""What can be wrong with a panoptic annotation file, its maps of segments aside."""

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from datasets.panoptic_ids import MAX_ID, VOID

from .annotations import (
    id_check,
    label_checks,
    repeated_categories,
    repeated_images,
)
from .conversions import converted, whole_numbers
from .faults import (
    Check,
    Fault,
    annotation_faults,
    shown,
    shown_name,
)


@dataclass
class SegmentColumns:
    """The values of N segments, in the order of the file; see `PanopticAnnotations`."""

    ids: np.ndarray
    labels: np.ndarray
    crowds: np.ndarray


def segment_columns(segments: list[dict]) -> tuple[SegmentColumns, list[Check]]:
    """The values of segments, and what is wrong with ids and with categories that are none."""
    ids, bad_ids = converted([s["id"] for s in segments], whole_numbers, VOID)
    labels, bad_labels = converted([s["category_id"] for s in segments], whole_numbers, -1)
    crowds = np.array([bool(s.get("iscrowd")) for s in segments], dtype=bool)
    bad_ids |= (ids <= VOID) | (ids > MAX_ID)
    return SegmentColumns(ids, labels, crowds), [
        Check(
            bad_ids,
            lambda i: (
                f"has id {shown(segments[i]['id'])}, which is not a whole number from "
                f"{VOID + 1} to {MAX_ID}"
            ),
        ),
        Check(
            bad_labels,
            lambda i: (
                f"has category_id {shown(segments[i]['category_id'])}, which is not a whole number"
            ),
        ),
    ]


def panoptic_faults(
    path: Path,
    content: dict,
    columns: SegmentColumns,
    unusable: list[Check],
    counts: np.ndarray,
    num_classes: int | None,
) -> list[Fault]:
    """All faults of a panoptic annotation file that show without its PNGs and images.

    Args:
        content: of the file, with the layout of such files.
        columns, unusable: from `segment_columns`, of all annotations' segments.
        counts: (A,) int64, the numbers of segments of the annotations.
        num_classes: category ids must be below it; None allows any.
    """
    return [
        *repeated_images(path, content["images"]),
        *_category_faults(path, content["categories"]),
        *_faults_of_steps(path, content["images"], content["annotations"]),
        *_segment_faults(path, content, columns, unusable, counts, num_classes),
    ]


def _category_faults(path: Path, categories: list[dict]) -> list[Fault]:
    wrong = [
        Fault(
            str(path),
            f"category {category['id']} has isthing {shown(category['isthing'])}, which is "
            "neither 0 nor 1",
        )
        for category in categories
        if type(category["isthing"]) not in (int, bool) or category["isthing"] not in (0, 1)
    ]
    return wrong + repeated_categories(path, categories)


def _faults_of_steps(path: Path, images: list[dict], annotations: list[dict]) -> list[Fault]:
    """Images and annotations go in pairs."""
    listed = {image["id"] for image in images}
    counts = Counter(annotation["image_id"] for annotation in annotations)
    faults = [
        Fault(str(path), f"image {image_id} has no annotation", image_id)
        for image_id in sorted(listed - counts.keys())
    ]
    for annotation in annotations:
        image_id = annotation["image_id"]
        if image_id not in listed:
            name = shown_name(annotation["file_name"])
            words = f"annotation {name} is of image {image_id}, which the file does not list"
            faults.append(Fault(str(path), words, image_id))
    return faults + [
        Fault(str(path), f"image {image_id} has {count} annotations", image_id)
        for image_id, count in counts.items()
        if count > 1 and image_id in listed
    ]


def _segment_faults(
    path: Path,
    content: dict,
    columns: SegmentColumns,
    unusable: list[Check],
    counts: np.ndarray,
    num_classes: int | None,
) -> list[Fault]:
    annotations = content["annotations"]
    owners = np.repeat(np.arange(len(annotations)), counts)
    image_ids = [annotations[owner]["image_id"] for owner in owners.tolist()]
    bad_ids, bad_labels = unusable
    # A segment without a good id is known by its place.
    places = np.array(list(chain.from_iterable(map(range, counts))), dtype=np.int64)
    faults = annotation_faults(path, places, image_ids, [bad_ids], False, "segments_info entry")
    known = np.flatnonzero(~bad_ids.wrong)
    checks = [
        Check(bad_labels.wrong[known], lambda i: bad_labels.words(known[i])),
        *label_checks(
            columns.labels[known], ~bad_labels.wrong[known], content["categories"], num_classes
        ),
        # Unique among those of the same annotation.
        id_check(owners[known] * (MAX_ID + 1) + columns.ids[known], "segments"),
    ]
    ids, images = columns.ids[known], [image_ids[i] for i in known.tolist()]
    return faults + annotation_faults(path, ids, images, checks, False, "segment")
