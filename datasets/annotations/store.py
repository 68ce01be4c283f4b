"""The annotations of a split in a few arrays, which all loader processes share."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from util.errors import UserError

from .byte_table import ByteTable


@dataclass
class AnnotatedImages:
    """What any annotation file says about I images with N annotations in all.

    Nothing here is a Python object of its own for each image or annotation: reading one would
    change its reference count, and forked loader processes would copy all of them page by page.

    Attributes:
        path: the file.
        image_ids: (I,) int64, ascending.
        file_names: I names, as UTF-8.
        heights, widths: (I,) int64, 0 where the file does not tell.
        starts: (I + 1,) int64; image i has annotations starts[i] to starts[i + 1].
        ids, labels: (N,) int64; the labels are category ids.
        crowds: (N,) bool.
        categories: the file's list.
    """

    path: Path
    image_ids: np.ndarray
    file_names: ByteTable
    heights: np.ndarray
    widths: np.ndarray
    starts: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    crowds: np.ndarray
    categories: list[dict]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.image_ids)

    def file_name(self, index: int) -> str:
        """Of the image at `index`, not of that id."""
        return self.file_names[index].decode("utf-8", "surrogatepass")

    def class_names(self) -> dict[int, str]:
        """Of the categories, by label."""
        return {category["id"]: category["name"] for category in self.categories}

    def aspect_ratios(self) -> np.ndarray:
        """Width over height of each image, (I,) float64.

        Raises:
            UserError: the file does not tell.
        """
        self.check_sizes("--group_by_shape")
        return self.widths / self.heights

    def check_sizes(self, needed_by: str) -> None:
        """Raise a UserError unless the file tells the sizes of all images."""
        unknown = np.flatnonzero((self.heights <= 0) | (self.widths <= 0))
        if len(unknown):
            raise UserError(
                f"{self.path}: image {self.image_ids[unknown[0]]} lacks its height and width, "
                f"which {needed_by} needs"
            )

    def objects(self, index: int) -> np.ndarray:
        """Numbers (n,) int64 of the annotations of the image at `index` that are no crowds."""
        start, end = self.starts[index], self.starts[index + 1]
        return start + np.flatnonzero(~self.crowds[start:end])


@dataclass
class Annotations(AnnotatedImages):
    """What an instances_*.json file says.

    Attributes:
        boxes: (N, 4) float64, COCO's (x, y, w, h) in pixels.
        areas: (N,) float64.
        segmentations: N texts of JSON, empty where an annotation has none; None if not asked for.
    """

    boxes: np.ndarray
    areas: np.ndarray
    segmentations: ByteTable | None

    def segmentation(self, number: int) -> list | dict:
        """Polygons or run lengths of an annotation.

        Raises:
            UserError: it has none.
        """
        text = self.segmentations[number]
        if not text:
            raise UserError(f"{self.path}: annotation {self.ids[number]} has no segmentation")
        return json.loads(text)

    def for_scoring(self, iou_type: str = "bbox") -> dict:
        """The file's content as far as average precision needs it, made anew.

        Args:
            iou_type: "bbox", or "segm" for masks, too.

        Raises:
            UserError: masks are needed, and one is missing, or the size of its image.
        """
        owners = np.repeat(self.image_ids, np.diff(self.starts))
        columns = zip(
            self.ids.tolist(), owners.tolist(), self.labels.tolist(), self.boxes.tolist(),
            self.areas.tolist(), self.crowds.tolist(), strict=True,
        )  # fmt: skip
        names = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
        content = {
            "info": {},
            "images": [{"id": image_id} for image_id in self.image_ids.tolist()],
            "annotations": [dict(zip(names, row, strict=True)) for row in columns],
            "categories": self.categories,
        }
        if iou_type == "segm":
            self.check_sizes("scoring of masks")
            sizes = zip(self.heights.tolist(), self.widths.tolist(), strict=True)
            for image, (height, width) in zip(content["images"], sizes, strict=True):
                image |= {"height": height, "width": width}
            for number, annotation in enumerate(content["annotations"]):
                annotation["segmentation"] = self.segmentation(number)
        return content
