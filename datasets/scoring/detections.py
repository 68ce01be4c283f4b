"""Detections as a few arrays, which cost little to send between processes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import box_convert

from datasets.masks import encode_masks


@dataclass
class Detections:
    """n detections on any number of images.

    Attributes:
        image_ids: (n,) int64.
        labels: (n,) int64, COCO category ids.
        boxes: (n, 4) float32, COCO's (x, y, w, h) in pixels.
        scores: (n,) float32.
        masks: (n,) objects, compressed RLE; None for detections without masks, the default.
    """

    image_ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None = None

    def __post_init__(self):
        if self.masks is None:
            self.masks = np.full(len(self), None)

    def __len__(self) -> int:
        return len(self.image_ids)

    @classmethod
    def of_image(cls, image_id: int, result: dict[str, Tensor]) -> "Detections":
        """Convert what `models.postprocess` gives for an image, with boxes as corners."""
        boxes = box_convert(result["boxes"].float().cpu(), "xyxy", "xywh")
        masks = None
        if "masks" in result:
            masks = np.array(encode_masks(result["masks"].cpu().numpy()), dtype=object)
        return cls(
            np.full(len(boxes), image_id, dtype=np.int64),
            result["labels"].cpu().numpy().astype(np.int64, copy=False),
            boxes.numpy(),
            result["scores"].float().cpu().numpy(),
            masks,
        )

    @classmethod
    def joined(cls, parts: Sequence["Detections"]) -> "Detections":
        """Concatenate detections."""
        empty = cls(
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
        )
        columns = zip(*(vars(part).values() for part in (empty, *parts)), strict=True)
        return cls(*map(np.concatenate, columns))

    def by_image(self) -> "Detections":
        """Return them sorted by image id; those of an image keep their order."""
        order = np.argsort(self.image_ids, kind="stable")
        return Detections(*(column[order] for column in vars(self).values()))

    def most_in_an_image(self) -> int:
        """Return the largest number of detections of one image; 0 without any."""
        return int(np.unique(self.image_ids, return_counts=True)[1].max(initial=0))

    def annotations(self, iou_type: str = "bbox") -> list[dict]:
        """Return COCO's result entries, with id, area and iscrowd, which scorers need besides.

        Args:
            iou_type: "bbox", or "segm" for entries with masks and the masks' areas.
        """
        boxes = self.boxes.astype(np.float64)
        areas = (boxes[:, 2] * boxes[:, 3]).tolist()
        if iou_type == "segm":
            # One by one: with NumPy 2 pycocotools fails at a list of more than 255.
            areas = [int(coco_mask.area(mask)) for mask in self.masks]
        columns = zip(
            self.image_ids.tolist(),
            self.labels.tolist(),
            boxes.tolist(),
            areas,
            self.scores.tolist(),
            self.masks.tolist(),
            strict=True,
        )
        return [
            {
                "id": number,  # from 1: for scorers 0 means that there is no detection
                "image_id": image_id,
                "category_id": label,
                "bbox": box,
                "area": area,
                "score": score,
                "iscrowd": 0,
                **({"segmentation": mask} if iou_type == "segm" else {}),
            }
            for number, (image_id, label, box, area, score, mask) in enumerate(columns, start=1)
        ]
