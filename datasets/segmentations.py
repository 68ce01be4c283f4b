"""COCO's three ways to write down an object's outline, as a mask."""

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
