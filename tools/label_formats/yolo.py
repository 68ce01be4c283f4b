"""YOLO's labels, as Ultralytics documents them: data.yaml, and a text file for each image.

data.yaml names the classes, and for each split a folder of images, a list of such folders, or a
text file that lists images. The labels of .../images/a.jpg are in .../labels/a.txt, those of an
image in no folder "images" beside it. A line is `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...`,
in shares of the image's width and height. An image without a label file has no objects.
"""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from datasets.layouts import SUFFIXES, YAML_SUFFIXES
from datasets.validation.issues import error_text, short_repr
from util.errors import UserError
from util.files import read_text

from .content import (
    SPLITS,
    LabelledData,
    LabelledImage,
    LabelledObject,
    Progress,
    image_size,
    lines_of,
)

IMAGES, LABELS = "images", "labels"
CLASS_LIST = "classes.txt"  # some tools keep it among the labels
# How far shares may leave the range from 0 to 1: tools round, and draw to the border.
TOLERANCE = 0.01


def read_yolo(source: Path, progress: Progress) -> LabelledData:
    """Read data in YOLO's layout.

    Args:
        source: data.yaml, or its folder.
        progress: wraps the images of a split, to show how many are done.

    Raises:
        UserError: a file is missing or wrong; the message names it, and the line.
    """
    path = _yaml_file(source)
    content = _read_yaml(path)
    if "kpt_shape" in content:
        raise UserError(f"{path}: kpt_shape: labels of key points are not supported")
    names = _class_names(path, content.get("names"))
    splits = {}
    for split in SPLITS:
        if content.get(split) is None:
            continue
        images = list(dict.fromkeys(_images_of(path, content, split)))
        if not images:
            raise UserError(f"{path}: {split}: {content[split]}: there are no images")
        if not any(label_file(image).exists() for image in images):
            raise UserError(
                f"{path}: {split}: none of {len(images)} images has labels; those of {images[0]} "
                f"would be in {label_file(images[0])}"
            )
        splits[split] = [_read_image(image, names) for image in progress(images, f"{split} images")]
    if not splits:
        raise UserError(f"{path}: names no images: it has none of {', '.join(SPLITS)}")
    return LabelledData(splits, names)


def label_file(image: Path) -> Path:
    """Return where the labels of an image are."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == IMAGES:
            parts[place] = LABELS
            break
    return Path(*parts).with_suffix(".txt")


def parse_line(line: str, height: int, width: int, classes: Collection[int]) -> LabelledObject:
    """Return the object of a line.

    Args:
        height, width: of the image, in pixels.
        classes: that the line may have.

    Raises:
        ValueError: the line is malformed; the text completes "line 3 ...".
    """
    try:
        category, *shares = map(float, line.split())
    except ValueError:
        raise ValueError(f"is {short_repr(line)}, which is not numbers alone") from None
    if category not in classes:
        known = f"classes 0 to {max(classes)}" if len(classes) > 9 else ", ".join(map(str, classes))
        raise ValueError(f"has class {category:g}, the names in data.yaml are of {known}")
    category, count = int(category), len(shares) + 1
    if count != 5 and (count < 7 or count % 2 == 0):
        raise ValueError(
            f"has {count} number(s); a box has 5, class cx cy w h, and a polygon 7, 9 or more, "
            "class x1 y1 x2 y2 x3 y3"
        )
    for share in shares:
        if not -TOLERANCE <= share <= 1 + TOLERANCE:  # written so that NaN is refused, too
            raise ValueError(
                f"has {share:g}; coordinates are shares of the image's width and height, from 0 "
                "to 1"
            )
    if count == 5:
        cx, cy, w, h = shares
        if w < 0 or h < 0:
            raise ValueError(f"has the negative width or height {min(w, h):g}")
        box = ((cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height)
        return LabelledObject(category, box)
    x, y = [v * width for v in shares[::2]], [v * height for v in shares[1::2]]
    box = (min(x), min(y), max(x) - min(x), max(y) - min(y))
    polygon = [v for point in zip(x, y, strict=True) for v in point]
    return LabelledObject(category, box, polygon)


def _read_image(image: Path, names: dict[int, str]) -> LabelledImage:
    height, width = image_size(image)
    path = label_file(image)
    objects = []
    for line, place in lines_of(path, "label file") if path.exists() else ():
        try:
            objects.append(parse_line(line, height, width, names))
        except ValueError as error:
            raise UserError(f"{place} {error}") from error
    return LabelledImage(image, height, width, objects)


def _yaml_file(source: Path) -> Path:
    if source.is_file():
        return source
    found = [source / f"data{suffix}" for suffix in YAML_SUFFIXES]
    found = [path for path in found if path.is_file()]
    found = found or [path for path in sorted(source.iterdir()) if path.suffix in YAML_SUFFIXES]
    if len(found) != 1:
        raise UserError(
            f"{source}: has {len(found) or 'no'} files that may be YOLO's data.yaml, which names "
            "classes and splits; give the path of one"
        )
    return found[0]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML ({error_text(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not YOLO's data.yaml: it has no keys")
    return content


def _class_names(path: Path, names: Any) -> dict[int, str]:
    """Return the names of classes by their numbers."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path}: names: is {short_repr(names)}, not the names of the classes")
    for number, name in names.items():
        if type(number) is not int or number < 0:
            raise UserError(f"{path}: names: {short_repr(number)} is not the number of a class")
        # YAML reads a word such as no or off as False.
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            raise UserError(f"{path}: names: {number} is {short_repr(name)}; put it in quotes")
    return {number: str(names[number]) for number in sorted(names)}


def _images_of(yaml_file: Path, content: dict[str, Any], split: str) -> Iterator[Path]:
    """Yield the images of a split in order: sorted in each folder, as listed in each list."""
    places = content[split] if isinstance(content[split], list) else [content[split]]
    for place in places:
        if not isinstance(place, str):
            raise UserError(f"{yaml_file}: {split}: {short_repr(place)} is not a path")
        path = _find(yaml_file, content.get("path"), place, split)
        if path.is_dir():
            images = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            _check_all_have_images(path, images)
            yield from images
            continue
        for line, where in lines_of(path, "list of images"):
            image = _joined(path.parent, line)
            if not image.is_file():
                raise UserError(f"{where}: {image}: no such image")
            yield image


def _find(yaml_file: Path, root: Any, place: str, split: str) -> Path:
    """Return the folder or list that data.yaml names, whose `path` may be of another machine."""
    home = yaml_file.absolute().parent
    roots = [home / root, home] if isinstance(root, str) else [home]
    # Roboflow writes ../train/images for the folder train/images beside data.yaml.
    tried = [_joined(r, p) for r in roots for p in (place, place.removeprefix("../"))]
    for path in tried:
        if path.exists():
            return path
    raise UserError(f"{yaml_file}: {split}: {tried[0]}: no such folder or list of images")


def _joined(folder: Path, name: str) -> Path:
    return Path(os.path.normpath(folder / name))


def _check_all_have_images(folder: Path, images: list[Path]) -> None:
    """Raise a UserError for a label file without an image, which would not be trained on."""
    labels = label_file(folder / "a").parent
    if labels == folder or not labels.is_dir():
        return
    known = {label_file(image) for image in images}
    for path in sorted(labels.rglob("*.txt")):
        if path not in known and path.name != CLASS_LIST:
            raise UserError(f"{path}: there is no image of that name in {folder}")
