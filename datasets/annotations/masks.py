"""COCO's three ways to write down an object's outline, as a mask, and a mask as one of them."""

import numpy as np
from pycocotools import mask as coco_mask


def to_mask(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """The mask (height, width) uint8 of polygons, or of run lengths, plain or compressed.

    Args:
        segmentation: [[x, y, x, y, ...], ...], {"counts": [n, ...], "size": [h, w]} or
            {"counts": text, "size": [h, w]}.
    """
    if isinstance(segmentation, list):
        runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        runs = coco_mask.frPyObjects(segmentation, height, width)
    else:
        runs = segmentation
    return coco_mask.decode(runs)


def to_run_lengths(masks: np.ndarray) -> list[dict]:
    """Masks (n, height, width) bool -> n compressed run lengths, {"counts": bytes, "size": [h, w]}.

    They go down the columns, as COCO's do.
    """
    by_column = np.ascontiguousarray(masks.transpose(0, 2, 1), dtype=np.uint8)
    return coco_mask.encode(by_column.transpose(2, 1, 0))
