"""What can be wrong with one sample, once its image has been read."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from datasets.orientation import UPRIGHT, orientation
from datasets.validation.boxes import place_checks
from datasets.validation.faults import (
    Check,
    Fault,
    annotation_faults,
    shown_name,
    size_fault,
)
from datasets.validation.outlines import why_not_outline

from .store import AnnotatedImages, Annotations


def told_size_fault(known: AnnotatedImages, index: int, height: int, width: int) -> Fault | None:
    """The image at `index`, of this size, is not as large as the annotation file says."""
    told = int(known.heights[index]), int(known.widths[index])
    image_id, name = int(known.image_ids[index]), known.file_name(index)
    return size_fault(known.path, image_id, name, told, (height, width))


def sample_faults(
    known: Annotations, index: int, height: int, width: int, notes: bool = False
) -> Iterator[Fault]:
    """Faults of the image at `index` that reading the annotation file did not show.

    Args:
        height, width: of the image itself.
        notes: whether to include them.
    """
    image_id = int(known.image_ids[index])
    told = int(known.heights[index]), int(known.widths[index])
    fault = told_size_fault(known, index, height, width)
    if fault is not None:
        yield fault
    elif min(told) <= 0:
        numbers = np.arange(known.starts[index], known.starts[index + 1])
        sizes = np.tile(np.array([width, height]), (len(numbers), 1))
        yield from annotation_faults(
            known.path,
            known.ids[numbers],
            [image_id] * len(numbers),
            place_checks(known.boxes[numbers], sizes),
            notes,
        )


def orientation_notes(
    known: AnnotatedImages, index: int, stored: Image.Image, used: Image.Image
) -> Iterator[Fault]:
    """A note that says which way up the image at `index` is read, where that is in question.

    Args:
        stored, used: the image as in its file, and as `datasets.orientation.as_annotated` gives it.
    """
    if orientation(stored) == UPRIGHT or told_size_fault(known, index, used.height, used.width):
        return
    image_id, name = int(known.image_ids[index]), shown_name(known.file_name(index))
    kind = "turned" if used is not stored else "not turned"
    yield Fault(str(known.path), f"{image_id} ({name})", image_id, kind)


def outline_faults(known: Annotations, index: int, height: int, width: int) -> Iterator[Fault]:
    """Faults of the outlines of the image at `index`, also of crowds, which scoring reads.

    An annotation without any outline has none.

    Args:
        height, width: of the image.
    """
    image_id = int(known.image_ids[index])
    for number in range(known.starts[index], known.starts[index + 1]):
        if not known.segmentations[number]:
            continue
        reason = why_not_outline(known.segmentation(number), height, width)
        if reason is not None:
            check = Check(np.ones(1, dtype=bool), lambda _, reason=reason: reason)
            ids = known.ids[number : number + 1]
            yield from annotation_faults(known.path, ids, [image_id], [check], notes=False)
