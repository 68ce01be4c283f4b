"""Issues of a data set, one line of text each, worded alike by training and tools/check_data.py."""

from dataclasses import dataclass
from typing import Any

from util.errors import one_line

MAX_VALUE_LENGTH = 100  # characters of a bad value that a message shows
MAX_NAME_LENGTH = 300

# What notes of one kind have in common.
NOTES = {
    "beyond": "boxes beyond their image, which are clipped",
    "empty": "boxes of zero width or height, which are left out",
    "no image": "annotations of no image, which are ignored",
    "never found": "annotations of id 0, which COCO's scoring never finds: number them from 1",
    "crowded": "images with more objects than --num_queries, of which it cannot find more",
    "turned": "images that are turned by their EXIF orientation, to have the annotated size",
    "not turned": "images with an EXIF orientation that are read as stored: their size is so",
}


@dataclass(frozen=True)
class Issue:
    """Something that is wrong with a data set; `str` gives it as one line.

    An error stops training, or makes --skip_bad_images skip the image. A note is about something
    that published DETR tolerates and that COCO's own files contain.

    Attributes:
        file: the file it is about, the first part of the text; empty if the message names it.
        message: what is wrong.
        image_id: id of the image whose sample is bad; None if the whole file is.
        note: a key of NOTES, or "" for an error.
        annotation_id: id of the annotation, if it is about one.
    """

    file: str
    message: str
    image_id: int | None = None
    note: str = ""
    annotation_id: int | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.message}" if self.file else self.message


def annotation_issue(
    path: object, image_id: int, annotation_id: int, finding: str, note: str = ""
) -> Issue:
    """Return an issue of an annotation; `finding` completes "annotation 1 of image 2 ..."."""
    message = f"annotation {annotation_id} of image {image_id} {finding}"
    return Issue(str(path), message, image_id, note, annotation_id)


def size_issue(
    path: object,
    image_id: int,
    file_name: str,
    annotated_size: tuple[int, int],
    size: tuple[int, int],
) -> Issue | None:
    """Return an issue unless the image in `file_name` is as large as annotated.

    Args:
        annotated_size: height and width, 0 where the annotation file lacks them.
        size: height and width of the image itself.
    """
    if all(a in (0, b) for a, b in zip(annotated_size, size, strict=True)):
        return None
    annotated = " and ".join(
        f"{name} {value}"
        for name, value in zip(("height", "width"), annotated_size, strict=True)
        if value
    )
    message = (
        f"image {image_id} has {annotated}, but {printable_name(file_name)} is {size[0]} high and "
        f"{size[1]} wide"
    )
    return Issue(str(path), message, image_id)


def unreadable_image(path: object, image_id: int, error: Exception) -> Issue:
    """Return the issue of an image that is missing or cannot be decoded.

    Args:
        path: the annotation file that lists it.
        error: its text names the image's own file.
    """
    return Issue(str(path), f"image {image_id}: {error}", image_id)


def error_text(error: BaseException) -> str:
    """Return an exception's text on one line, with its type where the text is a single word."""
    text = one_line(" ".join(str(error).split()), MAX_NAME_LENGTH)
    return text if " " in text else f"{type(error).__name__} {text}".strip()


def short_repr(value: Any) -> str:
    """Return the repr of a bad value on one line of limited length."""
    return one_line(repr(value), MAX_VALUE_LENGTH)


def printable_name(name: str) -> str:
    """Return a file name on one line of limited length."""
    return one_line(name, MAX_NAME_LENGTH)
