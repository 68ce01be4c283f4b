"""The annotations of a split in a few arrays, which all loader processes share."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from util.errors import UserError


class PackedBytes:
    """A sequence of byte strings in one buffer.

    A list would hold an object for each. Reading an object changes its reference count and thereby
    a page of memory, which forked processes then no longer share.

    Args:
        items: the strings; read once, so a generator keeps few of them in memory.
    """

    def __init__(self, items: Iterable[bytes]):
        buffer, ends = bytearray(), [0]
        for item in items:
            buffer += item
            ends.append(len(buffer))
        self._buffer = np.frombuffer(bytes(buffer), dtype=np.uint8)
        self._ends = np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> bytes:
        return self._buffer[self._ends[number] : self._ends[number + 1]].tobytes()


def pack_names(names: Iterable[str]) -> PackedBytes:
    """Pack file names; JSON can hold some that are not valid Unicode."""
    return PackedBytes(name.encode("utf-8", "surrogatepass") for name in names)


def unpack_name(names: PackedBytes, index: int) -> str:
    """Return a name of `pack_names`."""
    return names[index].decode("utf-8", "surrogatepass")


@dataclass
class AnnotatedImages:
    """What any annotation file says about I images with N annotations in all.

    There is no Python object for each image or annotation: reading one would change its reference
    count, and forked loader processes would copy all of them page by page.

    Attributes:
        path: the file.
        image_ids: (I,) int64, ascending.
        file_names: I names, from `pack_names`.
        heights, widths: (I,) int64, 0 where the file lacks them.
        starts: (I + 1,) int64; image i has annotations starts[i] to starts[i + 1].
        ids, labels: (N,) int64; the labels are category ids, unless
            `datasets.annotations.categories.number_labels` has changed them.
        crowds: (N,) bool.
        categories: the file's list.
    """

    path: Path
    image_ids: np.ndarray
    file_names: PackedBytes
    heights: np.ndarray
    widths: np.ndarray
    starts: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    crowds: np.ndarray
    categories: list[dict]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    def file_name(self, index: int) -> str:
        return unpack_name(self.file_names, index)

    def class_names(self) -> dict[int, str]:
        """Return the categories' names by label."""
        return {category["id"]: category["name"] for category in self.categories}

    def annotated_size(self, index: int) -> tuple[int, int]:
        """Return height and width of an image, 0 where the file lacks them."""
        return int(self.heights[index]), int(self.widths[index])

    def aspect_ratios(self) -> np.ndarray:
        """Return width / height of each image, (I,) float64.

        Raises:
            UserError: the file lacks the size of an image.
        """
        self.check_sizes("--group_by_shape")
        return self.widths / self.heights

    def check_sizes(self, needed_by: str) -> None:
        """Raise a UserError unless the file has the sizes of all images."""
        unknown = np.flatnonzero((self.heights <= 0) | (self.widths <= 0))
        if len(unknown):
            raise UserError(
                f"{self.path}: image {self.image_ids[unknown[0]]} lacks its height and width, "
                f"which {needed_by} needs"
            )

    def fingerprint(self) -> str:
        """Return a short text that is the same for the same annotations, wherever the file is.

        How labels are numbered does not matter.
        """
        _, classes = np.unique(self.labels, return_inverse=True)
        boxes = getattr(self, "boxes", np.zeros(0))
        digest = hashlib.sha256()
        for column in (self.image_ids, self.starts, self.ids, self.crowds, classes, boxes):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()[:16]

    def annotation_range(self, index: int) -> range:
        """Return the numbers of an image's annotations, crowds included."""
        return range(int(self.starts[index]), int(self.starts[index + 1]))

    def object_counts(self) -> np.ndarray:
        """Return how many annotations that are no crowds each image has, (I,) int64."""
        before = np.concatenate([[0], np.cumsum(~self.crowds)])
        return before[self.starts[1:]] - before[self.starts[:-1]]

    def objects(self, index: int) -> np.ndarray:
        """Return the numbers (n,) int64 of an image's annotations that are no crowds."""
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
    segmentations: PackedBytes | None

    def segmentation(self, number: int) -> list | dict:
        """Return the polygons or RLE of an annotation.

        Raises:
            UserError: it has none.
        """
        text = self.segmentations[number]
        if not text:
            raise UserError(f"{self.path}: annotation {self.ids[number]} has no segmentation")
        return json.loads(text)

    def for_scoring(self, iou_type: str = "bbox") -> dict:
        """Return what average precision needs, in the layout of an instances_*.json file.

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
