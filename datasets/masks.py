"""COCO's encodings of masks: polygons, RLE, and the colours of a panoptic PNG."""

import numpy as np
from pycocotools import mask as coco_mask

VOID = 0  # panoptic id of pixels that belong to no segment
MAX_ID = 256**3 - 1


def decode_mask(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """Return the mask (height, width) uint8, 0 or 1, of an annotation's segmentation.

    pycocotools trusts its input: check values from outside with
    `datasets.validation.segmentations.segmentation_problem` first.

    Args:
        segmentation: polygons [[x, y, x, y, ...], ...], RLE {"counts": [n, ...], "size": [h, w]},
            or compressed RLE {"counts": str or bytes, "size": [h, w]}.
    """
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return coco_mask.decode(rle)


def encode_masks(masks: np.ndarray) -> list[dict]:
    """Encode masks (n, height, width) bool as compressed RLE {"counts": bytes, "size": [h, w]}."""
    # pycocotools wants (height, width, n) in Fortran order: runs go down the columns.
    by_column = np.ascontiguousarray(masks.transpose(0, 2, 1), dtype=np.uint8)
    return coco_mask.encode(by_column.transpose(2, 1, 0))


def rgb2id(rgb: np.ndarray) -> np.ndarray:
    """Convert colours (H, W, 3) uint8 to segment ids (H, W) int32, R + 256 G + 256^2 B."""
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    return red + (green << 8) + (blue << 16)


def id2rgb(ids: np.ndarray) -> np.ndarray:
    """Convert segment ids (H, W), integers from 0 to MAX_ID, to colours (H, W, 3) uint8."""
    return np.stack([ids & 255, (ids >> 8) & 255, (ids >> 16) & 255], axis=-1).astype(np.uint8)
