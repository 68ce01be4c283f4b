"""COCO panoptic annotation files: read, checked, and packed into arrays."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from datasets.validation.faults import Fault, shown
from datasets.validation.panoptic import panoptic_faults, segment_columns
from util.errors import UserError

from .byte_table import ByteTable
from .json_file import (
    by_image,
    content_of,
    image_columns,
    listed_images,
    missing_key,
    name_table,
)
from .store import AnnotatedImages

KIND = "COCO panoptic annotation file"
REQUIRED_KEYS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "file_name", "segments_info"),
    "categories": ("id", "name", "isthing"),
}
SEGMENT_KEYS = ("id", "category_id")


@dataclass
class PanopticAnnotations(AnnotatedImages):
    """What a panoptic_*.json file says; its annotations are segments, in the order of the file.

    The ids of segments are unique within an image only. What the file says of their boxes and
    areas is not kept: the pixels tell.

    Attributes:
        png_names: I names of the images' maps of segments, as UTF-8; empty for an image without
            annotation.
    """

    png_names: ByteTable

    def png_name(self, index: int) -> str:
        """Of the image at `index`."""
        return self.png_names[index].decode("utf-8", "surrogatepass")

    def segments(self, index: int) -> slice:
        """Where the segments of the image at `index` are among all, crowds included."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))


def load_panoptic_annotations(
    path: str | Path, num_classes: int | None = None
) -> PanopticAnnotations:
    """Read a panoptic_*.json file.

    Args:
        num_classes: category ids must be below it; None allows any.

    Raises:
        UserError: as `read_panoptic_annotations`, and for the first fault.
    """
    annotations, faults = read_panoptic_annotations(path, num_classes)
    if faults:
        raise UserError(str(faults[0]))
    return annotations


def read_panoptic_annotations(
    path: str | Path, num_classes: int | None = None
) -> tuple[PanopticAnnotations, list[Fault]]:
    """As `load_panoptic_annotations`, but gives all faults that it finds.

    Values that cannot be used are 0 or -1 in the annotations; of an image's annotations, only the
    first is there.

    Raises:
        UserError: no such file, no JSON, or not COCO's lists of images, annotations with
            segments, categories.
    """
    path = Path(path)
    with content_of(path, KIND, REQUIRED_KEYS) as content:
        _check_annotations(path, content["annotations"])
        return _packed(path, content, num_classes)


def _packed(
    path: Path, content: dict, num_classes: int | None
) -> tuple[PanopticAnnotations, list[Fault]]:
    images, annotations = listed_images(content), content["annotations"]
    first: dict[int, int] = {}  # number of an image's annotation
    for number, annotation in enumerate(annotations):
        first.setdefault(annotation["image_id"], number)
    numbers = [first.get(image["id"]) for image in images]
    # -1: of an image that the file does not list, or not the first of its image.
    owners = np.full(len(annotations), -1, dtype=np.int64)
    for place, number in enumerate(numbers):
        if number is not None:
            owners[number] = place
    counts = [len(annotation["segments_info"]) for annotation in annotations]
    segments = list(chain.from_iterable(a["segments_info"] for a in annotations))
    columns, unusable = segment_columns(segments)
    faults = panoptic_faults(path, content, columns, unusable, np.array(counts, int), num_classes)
    order, starts = by_image(np.repeat(owners, counts), len(images))
    names = ("" if number is None else annotations[number]["file_name"] for number in numbers)
    packed = PanopticAnnotations(
        path=path,
        **image_columns(images),
        starts=starts,
        ids=columns.ids[order],
        labels=columns.labels[order],
        crowds=columns.crowds[order],
        categories=content["categories"],
        png_names=name_table(names),
    )
    return packed, faults


def _check_annotations(path: Path, annotations: list[dict]) -> None:
    """Raise a UserError unless every segment has what it is known by."""
    for i, annotation in enumerate(annotations):
        for key, kind, wanted in (
            ("image_id", int, "not a whole number"),
            ("file_name", str, "not the name of a file"),
            ("segments_info", list, "not a list"),
        ):
            if type(annotation[key]) is not kind or annotation[key] == "":
                raise UserError(
                    f"{path}: annotations[{i}] has {key} {shown(annotation[key])}, {wanted}"
                )
        for k, segment in enumerate(annotation["segments_info"]):
            missing = missing_key(segment, SEGMENT_KEYS)
            if missing is not None:
                raise UserError(
                    f"{path}: not a {KIND}, annotations[{i}].segments_info[{k}] lacks {missing!r}"
                )
