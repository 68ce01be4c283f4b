"""Detections as a few arrays, which cost little to send between processes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torchvision.ops import box_convert


@dataclass
class Detections:
    """Any number n of detections on any number of images.

    Attributes:
        image_ids: (n,) int64.
        labels: (n,) int64, COCO category ids.
        boxes: (n, 4) float32, COCO's (x, y, w, h) in pixels.
        scores: (n,) float32.
    """

    image_ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)

    @classmethod
    def of_image(cls, image_id: int, found: dict[str, Tensor]) -> "Detections":
        """What `models.postprocess.PostProcess` gives for one image: boxes are corners there."""
        boxes = box_convert(found["boxes"].float().cpu(), "xyxy", "xywh")
        return cls(
            np.full(len(boxes), image_id, dtype=np.int64),
            found["labels"].cpu().numpy().astype(np.int64, copy=False),
            boxes.numpy(),
            found["scores"].float().cpu().numpy(),
        )

    @classmethod
    def joined(cls, parts: Sequence["Detections"]) -> "Detections":
        """All detections of `parts` in their order."""
        none = cls(
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
        )
        columns = zip(*(vars(part).values() for part in (none, *parts)), strict=True)
        return cls(*map(np.concatenate, columns))

    def by_image(self) -> "Detections":
        """Sorted by image id; those of an image keep their order."""
        order = np.argsort(self.image_ids, kind="stable")
        return Detections(*(column[order] for column in vars(self).values()))

    def annotations(self) -> list[dict]:
        """COCO's result entries, with the fields that scorers want besides: id, area, iscrowd."""
        boxes = self.boxes.astype(np.float64)
        columns = zip(
            self.image_ids.tolist(),
            self.labels.tolist(),
            boxes.tolist(),
            (boxes[:, 2] * boxes[:, 3]).tolist(),
            self.scores.tolist(),
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
            }
            for number, (image_id, label, box, area, score) in enumerate(columns, start=1)
        ]
