"""What label files say about images, and the same as the content of an instances_*.json file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from datasets.orientation import UPRIGHT, orientation
from datasets.validation.issues import error_text
from util.errors import UserError
from util.files import read_text

SPLITS = ("train", "val", "test")
# Of pixel coordinates: what is beyond comes from computing with floats, not from the labels.
DIGITS = 6


class LabelledObject(NamedTuple):
    """An object in pixels from the image's top left corner.

    Attributes:
        category: as the label file names it, a number or a name.
        box: (x, y, w, h).
        polygon: x, y, x, y, ...; None for a box alone.
        difficult: neither learned nor scored.
    """

    category: int | str
    box: tuple[float, float, float, float]
    polygon: list[float] | None = None
    difficult: bool = False


class LabelledImage(NamedTuple):
    """An image with its size in pixels and its objects."""

    path: Path
    height: int
    width: int
    objects: list[LabelledObject]


class LabelledData(NamedTuple):
    """Images by split, and the names of their categories, in the order of COCO's ids from 1 on."""

    splits: dict[str, list[LabelledImage]]
    names: dict[int | str, str]


Progress = Callable[[Sequence, str], Sequence]


def lines_of(path: Path, what: str) -> list[tuple[str, str]]:
    """Return the lines of a text file that are not empty, each with its place for messages.

    Args:
        what: the file is, for the message if it is missing.

    Raises:
        UserError: it cannot be read.
    """
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such {what}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text in UTF-8") from error
    return [(line.strip(), f"{path}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image that is turned as its EXIF orientation says.

    Raises:
        UserError: it is no image, or its size does not show training whether labels mean the
            image as stored or turned.
    """
    try:
        with Image.open(path) as image:
            if image.format == "TIFF":
                image.load()  # which turns it
            width, height = image.size
            turn = orientation(image)
    except Exception as error:  # of any type, at malformed files
        raise UserError(f"{path}: not a readable image ({error_text(error)})") from error
    if turn == UPRIGHT:
        return height, width
    if turn < 5 or height == width:  # turned, it has the same size
        raise UserError(
            f"{path}: its EXIF orientation {turn} turns the image, and labels may mean it either "
            "way; save it upright, such as by ImageMagick's mogrify -auto-orient"
        )
    return width, height


def coco_content(
    images: Sequence[LabelledImage], folder: Path, names: dict[int | str, str]
) -> dict:
    """Return the content of an instances_*.json file.

    Ids count from 1. So do those of categories that names tell apart; class number n is n + 1.

    Args:
        folder: that names of image files are relative to.
        names: of categories by class number or by name, in the order of their ids.
    """
    ids = {
        category: category + 1 if isinstance(category, int) else number
        for number, category in enumerate(names, start=1)
    }
    entries, annotations = [], []
    for image_id, image in enumerate(images, start=1):
        name = image.path.relative_to(folder).as_posix()
        size = {"height": image.height, "width": image.width}
        entries.append({"id": image_id, "file_name": name, **size})
        for labelled in image.objects:
            box = _rounded(labelled.box)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": ids[labelled.category],
                "bbox": box,
                "area": _rounded([box[2] * box[3]])[0],
                "iscrowd": int(labelled.difficult),
            }
            if labelled.polygon is not None:
                polygon = _rounded(labelled.polygon)
                annotation |= {"area": _polygon_area(polygon), "segmentation": [polygon]}
            annotations.append(annotation)
    categories = [{"id": ids[category], "name": name} for category, name in names.items()]
    return {"images": entries, "annotations": annotations, "categories": categories}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) + 0.0 for value in values]  # + 0.0: no negative zero


def _polygon_area(polygon: list[float]) -> float:
    """Return the area of a polygon x, y, x, y, ..., by the shoelace formula."""
    x, y = polygon[::2], polygon[1::2]
    doubled = sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))
    return round(abs(doubled) / 2, DIGITS)
