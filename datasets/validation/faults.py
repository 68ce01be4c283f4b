"""What is wrong with data, in one line each: the same from training and from tools/check_data.py.

An error stops training, or makes it skip the image if it was told to. A note is about something
that published DETR puts up with, and that COCO's own files have.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from util.errors import one_line

LONGEST_VALUE = 100  # characters of a wrong value that are shown

# What the notes have in common, by kind.
NOTES = {
    "beyond": "boxes beyond their image, which are clipped",
    "empty": "boxes of zero width or height, which are left out",
    "no image": "annotations of no image, which are ignored",
    "turned": "images that are turned by their EXIF orientation, to have the annotated size",
    "not turned": "images with an EXIF orientation that are read as stored: their size is so",
}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong; its text is one line.

    Attributes:
        file: where; the first part of the text. Empty if the words name it.
        words: what.
        image_id: whose sample is bad; None where it is the whole file.
        note: a key of NOTES, or "" for an error.
        annotation_id: of the annotation, if it is about one.
    """

    file: str
    words: str
    image_id: int | None = None
    note: str = ""
    annotation_id: int | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.words}" if self.file else self.words


@dataclass(frozen=True)
class Check:
    """One question to n annotations at once.

    Attributes:
        wrong: (n,) bool, where the answer is bad.
        words: says of the annotation at a place what it has.
        note: see Fault.
    """

    wrong: np.ndarray
    words: Callable[[int], str]
    note: str = ""


def annotation_faults(
    file: object,
    ids: np.ndarray,
    image_ids: list,
    checks: Iterable[Check],
    notes: bool,
    kind: str = "annotation",
) -> list[Fault]:
    """The faults that checks found in n annotations, in the annotations' order.

    Args:
        file: the annotation file.
        ids: (n,) int64.
        image_ids: n of them.
        notes: whether to include them.
        kind: what they are called.
    """
    found = [
        (place, check)
        for check in checks
        if notes or not check.note
        for place in np.flatnonzero(check.wrong).tolist()
    ]
    found.sort(key=lambda pair: pair[0])  # stable: the checks of an annotation keep their order
    return [
        Fault(
            str(file),
            f"{kind} {ids[place]} of image {image_ids[place]} {check.words(place)}",
            image_ids[place],
            check.note,
            int(ids[place]),
        )
        for place, check in found
    ]


def size_fault(
    file: object, image_id: int, file_name: str, told: tuple[int, int], found: tuple[int, int]
) -> Fault | None:
    """An image that is not as large as the annotation file says.

    Args:
        told: height and width, 0 where the file does not tell.
        found: height and width of the image itself.
    """
    if all(a in (0, b) for a, b in zip(told, found, strict=True)):
        return None
    said = " and ".join(
        f"{name} {value}" for name, value in zip(("height", "width"), told, strict=True) if value
    )
    words = (
        f"image {image_id} has {said}, but {shown_name(file_name)} is {found[0]} high and "
        f"{found[1]} wide"
    )
    return Fault(str(file), words, image_id)


def reading_fault(file: object, image_id: int, error: Exception) -> Fault:
    """An image that is missing or cannot be decoded.

    Args:
        file: the annotation file that names it.
        error: names the image's own file.
    """
    return Fault(str(file), f"image {image_id}: {error}", image_id)


def cause(error: BaseException) -> str:
    """The text of an exception in one line; its type, too, where the text is no sentence."""
    text = one_line(" ".join(str(error).split()), 3 * LONGEST_VALUE)
    return text if " " in text else f"{type(error).__name__} {text}".strip()


def shown(value: Any) -> str:
    """A wrong value, on one line and not endless."""
    return one_line(repr(value), LONGEST_VALUE)


def shown_name(name: str) -> str:
    """A file's name on one line."""
    return one_line(name, 3 * LONGEST_VALUE)
