"""What can be wrong with one sample, checked once its image has been read."""

from collections.abc import Iterator

from PIL import Image

from datasets.orientation import UPRIGHT, orientation
from datasets.validation.annotations import position_finding
from datasets.validation.issues import Issue, annotation_issue, printable_name, size_issue
from datasets.validation.segmentations import segmentation_problem

from .store import AnnotatedImages, Annotations


def check_image_size(
    annotations: AnnotatedImages, index: int, height: int, width: int
) -> Issue | None:
    """Return an issue unless the image at `index`, of this size, is as large as annotated."""
    return size_issue(
        annotations.path,
        int(annotations.image_ids[index]),
        annotations.file_name(index),
        annotations.annotated_size(index),
        (height, width),
    )


def check_sample(
    annotations: Annotations, index: int, height: int, width: int, notes: bool = False
) -> Iterator[Issue]:
    """Yield issues of the image at `index` that reading the annotation file could not show.

    Args:
        height, width: of the image itself.
        notes: whether to include notes.
    """
    issue = check_image_size(annotations, index, height, width)
    if issue is not None:
        yield issue
    elif min(annotations.annotated_size(index)) <= 0:  # else the file's check compared its boxes
        image_id = int(annotations.image_ids[index])
        for number in annotations.annotation_range(index):
            finding = position_finding(annotations.boxes[number].tolist(), width, height)
            if finding and (notes or not finding[1]):
                annotation_id = int(annotations.ids[number])
                yield annotation_issue(annotations.path, image_id, annotation_id, *finding)


def orientation_notes(
    annotations: AnnotatedImages, index: int, stored: Image.Image, used: Image.Image
) -> Iterator[Issue]:
    """Yield a note on how the image at `index` is turned if it has an EXIF orientation.

    Args:
        stored, used: the image as in its file, and as `datasets.orientation.as_annotated` gives it.
    """
    if orientation(stored) == UPRIGHT or check_image_size(annotations, index, *used.size[::-1]):
        return
    image_id = int(annotations.image_ids[index])
    message = f"{image_id} ({printable_name(annotations.file_name(index))})"
    note = "turned" if used is not stored else "not turned"
    yield Issue(str(annotations.path), message, image_id, note)


def check_segmentations(
    annotations: Annotations, index: int, height: int, width: int
) -> Iterator[Issue]:
    """Yield issues of the segmentations of the image at `index`, also of crowds, for scoring.

    Args:
        height, width: of the image.
    """
    for number in annotations.annotation_range(index):
        if not annotations.segmentations[number]:
            continue
        problem = segmentation_problem(annotations.segmentation(number), height, width)
        if problem is not None:
            ids = int(annotations.image_ids[index]), int(annotations.ids[number])
            yield annotation_issue(annotations.path, *ids, problem)
