"""What can be wrong with the entries of an instances_*.json file, found without its images.

A finding is (what is wrong, "") for an error, or (what is wrong, a key of `issues.NOTES`).
"""

import math
from collections import Counter
from pathlib import Path

import numpy as np

from .issues import Issue, annotation_issue, printable_name, short_repr

Finding = tuple[str, str]

# JSON gives exactly these types for numbers; bool, a subclass of int, is none.
NUMBERS = frozenset((int, float))
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def parse_box(value: object) -> list[float] | None:
    """Return a list of 4 numbers as floats; None for any other value."""
    if type(value) is not list or len(value) != 4 or not NUMBERS.issuperset(map(type, value)):
        return None
    try:
        return list(map(float, value))
    except OverflowError:  # an integer of hundreds of digits
        return None


def parse_number(value: object) -> float | None:
    """Return a finite number as a float; None for any other value."""
    try:
        number = float(value) if type(value) in NUMBERS else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def parse_int(value: object) -> int | None:
    """Return an integer (or a bool) that fits int64; None for any other value."""
    if type(value) in (int, bool) and INT64_MIN <= value <= INT64_MAX:
        return int(value)
    return None


def file_issues(
    path: Path,
    content: dict,
    boxes: list[list[float] | None],
    sizes: list[tuple[int, int] | None],
    num_classes: int | None,
    notes: bool,
) -> list[Issue]:
    """Return all issues of an annotation file that show without its images, in the file's order.

    Args:
        content: the file's content, with lists of images, annotations and categories.
        boxes: the annotations' boxes, as `parse_box` returns them.
        sizes: width and height of the annotations' images, 0 where the file lacks them; None for
            annotations of an image that the file does not list.
        num_classes: category ids must be below it; None allows any.
        notes: whether to include notes.

    Raises:
        OverflowError: a category id does not fit int64.
    """
    annotations = content["annotations"]
    category_ids = listed_ids(content["categories"])
    uses = Counter(annotation["id"] for annotation in annotations)
    issues = [
        *duplicate_images(path, content["images"]),
        *duplicate_categories(path, content["categories"]),
    ]
    for annotation, box, size in zip(annotations, boxes, sizes, strict=True):
        findings = _annotation_findings(
            annotation, box, size, uses[annotation["id"]], category_ids, num_classes
        )
        for message, note in findings:
            if notes or not note:
                ids = annotation["image_id"], annotation["id"]
                issues.append(annotation_issue(path, *ids, message, note))
    return issues


def _annotation_findings(
    annotation: dict,
    box: list[float] | None,
    size: tuple[int, int] | None,
    uses: int,
    category_ids: set[int],
    num_classes: int | None,
) -> list[Finding]:
    findings = []
    if box is None:
        findings.append((f"has bbox {short_repr(annotation['bbox'])}, not 4 numbers", ""))
    area = annotation.get("area")
    if area is not None and parse_number(area) is None:
        findings.append((f"has area {short_repr(area)}, not a finite number", ""))
    problem = category_problem(annotation["category_id"], category_ids, num_classes)
    if problem:
        findings.append((problem, ""))
    if uses > 1:
        findings.append((f"has an id that {uses} annotations share", ""))
    # Asked first, since most boxes are inside and nothing else can be wrong with those.
    if box is not None and not (size and _is_inside(box, *size)):
        findings += filter(None, (_box_finding(box), size and position_finding(box, *size)))
    if size is None:
        findings.append(("which the file does not list", "no image"))
    if annotation["id"] == 0:
        findings.append(("has the id that pycocotools keeps for no match", "never found"))
    return findings


def category_problem(
    category_id: object, category_ids: set[int], num_classes: int | None
) -> str | None:
    """Return what is wrong unless the file lists a category and the model has a class for it."""
    label = parse_int(category_id)
    if label is None:
        return f"has category_id {short_repr(category_id)}, which is not a whole number"
    if label not in category_ids:
        return f"has category_id {label}, which is none of the file's categories"
    if num_classes is None or 0 <= label < num_classes:
        return None
    problem = f"has category_id {label}, the model has classes 0 to {num_classes - 1}"
    advice = f"; give --num_classes {max(category_ids) + 1} or more"
    return problem + advice * (label >= num_classes)


def _is_inside(box: list[float], width: int, height: int) -> bool:
    """Check that a box has an area and lies in its image."""
    x, y, w, h = box
    return 0 <= x < x + w <= width and 0 <= y < y + h <= height


def _box_finding(box: list[float]) -> Finding | None:
    """Return what a box (x, y, w, h) shows by itself."""
    _, _, w, h = box
    if not all(map(math.isfinite, box)):
        return f"has bbox {_shown(box)}, which is not finite", ""
    if w < 0 or h < 0:
        return f"has bbox {_shown(box)} of negative width or height", ""
    if w == 0 or h == 0:
        return f"has bbox {_shown(box)} of zero width or height", "empty"
    return None


def position_finding(box: list[float], width: int, height: int) -> Finding | None:
    """Return what is wrong with a box's place in its image; None for boxes wrong by themselves.

    Args:
        box: (x, y, w, h) in pixels.
        width, height: of the image; not above 0 if unknown, then all boxes pass.
    """
    x, y, w, h = box
    right, bottom = x + w, y + h
    if not (all(map(math.isfinite, box)) and w >= 0 and h >= 0 and width > 0 and height > 0):
        return None
    if w and h:
        outside = x >= width or y >= height or right <= 0 or bottom <= 0
    else:  # an empty box may lie on the border
        outside = x > width or y > height or right < 0 or bottom < 0
    image = f"its image, which is {height} high and {width} wide"
    if outside:
        return f"has bbox {_shown(box)} wholly outside {image}", ""
    if x < 0 or y < 0 or right > width or bottom > height:
        return f"has bbox {_shown(box)} beyond {image}", "beyond"
    return None


def duplicate_images(path: Path, images: list[dict]) -> list[Issue]:
    """Return an issue for each image id of several images: annotations' images are ambiguous."""
    uses = Counter(image["id"] for image in images)
    names: dict[int, list[str]] = {image_id: [] for image_id in uses if uses[image_id] > 1}
    for image in images if names else ():
        if image["id"] in names:
            names[image["id"]].append(printable_name(image["file_name"]))
    return [
        Issue(str(path), f"image id {image_id} is that of {len(same)} images, {' and '.join(same)}")
        for image_id, same in names.items()
    ]


def duplicate_categories(path: Path, categories: list[dict]) -> list[Issue]:
    """Return an issue for each category id of several categories: names are ambiguous."""
    uses = Counter(category["id"] for category in categories)
    return [
        Issue(str(path), f"category id {category_id} is that of {count} categories")
        for category_id, count in uses.items()
        if count > 1
    ]


def listed_ids(categories: list[dict]) -> set[int]:
    """Return the ids of categories.

    Raises:
        OverflowError: one does not fit int64.
    """
    return set(np.array([category["id"] for category in categories], dtype=np.int64).tolist())


def _shown(box: list[float]) -> str:
    return f"[{', '.join(f'{value:.10g}' for value in box)}]"
