"""Which segment a pixel belongs to: COCO's panoptic ground truth has it as the colours of a PNG."""

import numpy as np

VOID = 0  # of pixels that belong to no segment
MAX_ID = 256**3 - 1


def ids_of_rgb(rgb: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) uint8 -> segment ids (H, W) int32, R + 256 G + 256^2 B."""
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    return red + (green << 8) + (blue << 16)


def rgb_of_ids(ids: np.ndarray) -> np.ndarray:
    """Segment ids (H, W), whole numbers from 0 to MAX_ID -> colours (H, W, 3) uint8."""
    return np.stack([ids & 255, (ids >> 8) & 255, (ids >> 16) & 255], axis=-1).astype(np.uint8)
