"""Pascal VOC's labels: JPEGImages, Annotations/*.xml, and lists in ImageSets/Main.

VOC counts pixels from 1: a box from xmin 1 to xmax 3 covers the first three columns, which COCO
calls x 0, w 3. So x = xmin - 1 and w = xmax - x, whether numbers are whole or not. Many tools write
corners that are counted from 0 into such files (zero_based): x = xmin and w = xmax - xmin.

VOC leaves difficult objects out of training, and its scores count them neither as found nor as
missed. COCO's format can say that by iscrowd.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from datasets.layouts import SUFFIXES
from datasets.validation.issues import error_text, short_repr
from util.errors import UserError

from .content import (
    SPLITS,
    LabelledData,
    LabelledImage,
    LabelledObject,
    Progress,
    image_size,
    lines_of,
)

IMAGES, ANNOTATIONS, LISTS = "JPEGImages", "Annotations", Path("ImageSets", "Main")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(
    root: Path, progress: Progress, classes: Sequence[str] | None = None, zero_based: bool = False
) -> LabelledData:
    """Read data in Pascal VOC's layout.

    Args:
        progress: wraps the images of a split, to show how many are done.
        classes: all there may be, in the order of their ids; None for those found, sorted.
        zero_based: corners are counted from 0, see above.

    Raises:
        UserError: a file is missing or wrong; the message names it, and the line or the object.
    """
    files = {
        path.relative_to(root / IMAGES).with_suffix("").as_posix(): path
        for path in sorted((root / IMAGES).rglob("*"), reverse=True)  # a.jpg before a.png
        if path.suffix.lower() in SUFFIXES
    }
    splits = {}
    for split in SPLITS:
        path = root / LISTS / f"{split}.txt"
        if path.exists():
            listed = list(dict.fromkeys(_listed(path, root, files)))
            if not listed:
                raise UserError(f"{path}: lists no images")
            splits[split] = [
                _read_image(*paths, classes, zero_based)
                for paths in progress(listed, f"{split} images")
            ]
    if not splits:
        lists = ", ".join(f"{split}.txt" for split in SPLITS)
        raise UserError(f"{root / LISTS}: has none of {lists}, which list the images of a split")
    if classes is None:
        images = [image for split in splits.values() for image in split]
        classes = sorted({str(o.category) for image in images for o in image.objects})
    return LabelledData(splits, {name: name for name in classes})


def parse_object(entry: Element, zero_based: bool) -> LabelledObject:
    """Return an <object>.

    Raises:
        ValueError: it is malformed; the text completes "object 2 ...".
    """
    name = (entry.findtext("name") or "").strip()
    if not name:
        raise ValueError("has no name")
    left, top, right, bottom = (_number(entry, f"bndbox/{corner}") for corner in CORNERS)
    if not zero_based:
        if left < 1 or top < 1:
            raise ValueError(
                f"({name}) has xmin {left:g}, ymin {top:g}; VOC counts pixels from 1, --zero_based "
                "is for files of tools that count from 0"
            )
        left, top = left - 1, top - 1
    if right < left or bottom < top:
        raise ValueError(f"({name}) has xmax or ymax below xmin or ymin")
    difficult = entry.find("difficult") is not None and _number(entry, "difficult") != 0
    return LabelledObject(name, (left, top, right - left, bottom - top), difficult=difficult)


def _listed(path: Path, root: Path, files: dict[str, Path]) -> Iterator[tuple[Path, Path]]:
    """Yield the annotation and the image of each line of a list."""
    for name, place in lines_of(path, "list of images"):
        if name not in files:
            raise UserError(f"{place}: {root / IMAGES} has no image {short_repr(name)}")
        annotation = root / ANNOTATIONS / f"{name}.xml"
        if not annotation.is_file():
            raise UserError(f"{place}: {annotation}: no such annotation file")
        yield annotation, files[name]


def _read_image(
    path: Path, image: Path, classes: Sequence[str] | None, zero_based: bool
) -> LabelledImage:
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        raise UserError(f"{path}: not readable XML ({error_text(error)})") from error
    try:
        height, width = (int(_number(root, f"size/{side}")) for side in ("height", "width"))
    except ValueError:
        height = width = 0  # as some tools write it
    if height <= 0 or width <= 0:
        height, width = image_size(image)
    objects = []
    for number, entry in enumerate(root.findall("object"), start=1):
        try:
            objects.append(parse_object(entry, zero_based))
        except ValueError as error:
            raise UserError(f"{path}: object {number} {error}") from error
        name = objects[-1].category
        if classes is not None and name not in classes:
            raise UserError(f"{path}: object {number} is {short_repr(name)}, none of --classes")
    return LabelledImage(image, height, width, objects)


def _number(entry: Element, name: str) -> float:
    text = entry.findtext(name)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        shown = "no number" if text is None else short_repr(text)
        raise ValueError(f"has {shown} as {name}")
    return value
