"""What can be wrong with a panoptic_*.json file, found without its PNGs and images."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from datasets.masks import MAX_ID, VOID

from .annotations import (
    category_problem,
    duplicate_categories,
    duplicate_images,
    listed_ids,
    parse_int,
)
from .issues import Issue, printable_name, short_repr


def parse_segment_id(value: object) -> int | None:
    """Return a segment's id, which three bytes can hold; None for any other value."""
    number = parse_int(value)
    return number if number is not None and VOID < number <= MAX_ID else None


def panoptic_issues(path: Path, content: dict, num_classes: int | None) -> list[Issue]:
    """Return all issues of a panoptic annotation file that show without its PNGs and images.

    Args:
        content: the file's content, with lists of images, annotations and categories.
        num_classes: category ids must be below it; None allows any.

    Raises:
        OverflowError: a category id does not fit int64.
    """
    issues = [
        *duplicate_images(path, content["images"]),
        *_isthing_issues(path, content["categories"]),
        *duplicate_categories(path, content["categories"]),
        *_pairing_issues(path, content["images"], content["annotations"]),
    ]
    category_ids = listed_ids(content["categories"])
    for annotation in content["annotations"]:
        image_id = annotation["image_id"]
        for segment, finding in _segment_findings(annotation, category_ids, num_classes):
            issues.append(Issue(str(path), f"{segment} of image {image_id} {finding}", image_id))
    return issues


def _isthing_issues(path: Path, categories: list[dict]) -> Iterator[Issue]:
    for category in categories:
        isthing = category["isthing"]
        if type(isthing) not in (int, bool) or isthing not in (0, 1):
            message = f"category {category['id']} has isthing {short_repr(isthing)}"
            yield Issue(str(path), f"{message}, which is neither 0 nor 1")


def _pairing_issues(path: Path, images: list[dict], annotations: list[dict]) -> Iterator[Issue]:
    """Check that each image has one annotation."""
    listed = {image["id"] for image in images}
    counts = Counter(annotation["image_id"] for annotation in annotations)
    for image_id in sorted(listed - counts.keys()):
        yield Issue(str(path), f"image {image_id} has no annotation", image_id)
    for annotation in annotations:
        image_id = annotation["image_id"]
        if image_id not in listed:
            name = printable_name(annotation["file_name"])
            message = f"annotation {name} is of image {image_id}, which the file does not list"
            yield Issue(str(path), message, image_id)
    for image_id, count in counts.items():
        if count > 1 and image_id in listed:
            yield Issue(str(path), f"image {image_id} has {count} annotations", image_id)


def _segment_findings(
    annotation: dict, category_ids: set[int], num_classes: int | None
) -> Iterator[tuple[str, str]]:
    """Yield which segment of an annotation is wrong, and what is wrong with it."""
    segments = annotation["segments_info"]
    ids = [parse_segment_id(segment["id"]) for segment in segments]
    uses = Counter(ids)
    for place, (segment, segment_id) in enumerate(zip(segments, ids, strict=True)):
        if segment_id is None:  # known by its place alone
            finding = (
                f"has id {short_repr(segment['id'])}, which is not a whole number from "
                f"{VOID + 1} to {MAX_ID}"
            )
            yield f"segments_info entry {place}", finding
            continue
        problem = category_problem(segment["category_id"], category_ids, num_classes)
        if problem:
            yield f"segment {segment_id}", problem
        if uses[segment_id] > 1:
            yield f"segment {segment_id}", f"has an id that {uses[segment_id]} segments share"
