"""panoptic_*.json files."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from datasets.masks import VOID
from datasets.validation.annotations import parse_int
from datasets.validation.issues import Issue, short_repr
from datasets.validation.panoptic import panoptic_issues, parse_segment_id
from util.errors import UserError

from .json_file import image_columns, missing_key, parsed_file, unique_images
from .store import AnnotatedImages, PackedBytes, pack_names, unpack_name

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

    The ids of segments are unique within an image only. The file's boxes and areas are not kept:
    they are computed from the pixels.

    Attributes:
        png_names: names of the I images' PNGs, from `pack_names`; empty for an image without
            annotation.
    """

    png_names: PackedBytes

    def png_name(self, index: int) -> str:
        return unpack_name(self.png_names, index)

    def segments(self, index: int) -> slice:
        """Return where an image's segments are in the arrays, crowds included."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))


def load_panoptic_annotations(
    path: str | Path, num_classes: int | None = None
) -> PanopticAnnotations:
    """Read a panoptic_*.json file.

    Args:
        num_classes: category ids must be below it; None allows any.

    Raises:
        UserError: as `read_panoptic_annotations`, and for the first issue.
    """
    annotations, issues = read_panoptic_annotations(path, num_classes)
    if issues:
        raise UserError(str(issues[0]))
    return annotations


def read_panoptic_annotations(
    path: str | Path, num_classes: int | None = None
) -> tuple[PanopticAnnotations, list[Issue]]:
    """Read a panoptic_*.json file, and return all of its issues.

    Values that cannot be used are 0 or -1 in the annotations; of several annotations of an image,
    only the first is kept.

    Raises:
        UserError: the file is missing, no JSON, or lacks COCO's lists of images, annotations with
            segments and categories.
    """
    path = Path(path)
    with parsed_file(path, KIND, REQUIRED_KEYS) as content:
        _check_annotations(path, content["annotations"])
        return _pack(path, content), panoptic_issues(path, content, num_classes)


def _pack(path: Path, content: dict) -> PanopticAnnotations:
    images, by_image = unique_images(content), {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], annotation)
    nothing = {"file_name": "", "segments_info": []}
    annotations = [by_image.get(image["id"], nothing) for image in images]
    counts = [len(annotation["segments_info"]) for annotation in annotations]
    segments = list(chain.from_iterable(a["segments_info"] for a in annotations))
    ids = [parse_segment_id(segment["id"]) for segment in segments]
    labels = [parse_int(segment["category_id"]) for segment in segments]
    return PanopticAnnotations(
        path=path,
        **image_columns(images),
        starts=np.cumsum([0, *counts], dtype=np.int64),
        ids=np.array([VOID if one is None else one for one in ids], dtype=np.int64),
        labels=np.array([-1 if label is None else label for label in labels], dtype=np.int64),
        crowds=np.array([bool(segment.get("iscrowd")) for segment in segments], dtype=bool),
        categories=content["categories"],
        png_names=pack_names(annotation["file_name"] for annotation in annotations),
    )


def _check_annotations(path: Path, annotations: list[dict]) -> None:
    """Raise a UserError unless annotations and their segments have all keys that are needed."""
    for i, annotation in enumerate(annotations):
        for key, kind, wanted in (
            ("image_id", int, "not a whole number"),
            ("file_name", str, "not the name of a file"),
            ("segments_info", list, "not a list"),
        ):
            if type(annotation[key]) is not kind or annotation[key] == "":
                raise UserError(
                    f"{path}: annotations[{i}] has {key} {short_repr(annotation[key])}, {wanted}"
                )
        for k, segment in enumerate(annotation["segments_info"]):
            missing = missing_key(segment, SEGMENT_KEYS)
            if missing is not None:
                raise UserError(
                    f"{path}: not a {KIND}, annotations[{i}].segments_info[{k}] lacks {missing!r}"
                )
