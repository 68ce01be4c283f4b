"""What can be wrong with boxes, asked of many at once."""

import numpy as np

from .faults import Check


def value_checks(boxes: np.ndarray) -> list[Check]:
    """What boxes (n, 4) float64, (x, y, w, h), show by themselves."""
    finite = np.isfinite(boxes).all(axis=1)
    sizes = boxes[:, 2:]
    negative = finite & (sizes < 0).any(axis=1)
    return [
        Check(~finite, lambda i: f"has bbox {_shown(boxes[i])}, which is not finite"),
        Check(negative, lambda i: f"has bbox {_shown(boxes[i])} of negative width or height"),
        Check(
            finite & ~negative & (sizes == 0).any(axis=1),
            lambda i: f"has bbox {_shown(boxes[i])} of zero width or height",
            note="empty",
        ),
    ]


def place_checks(boxes: np.ndarray, image_sizes: np.ndarray) -> list[Check]:
    """Where boxes lie in their images.

    Args:
        boxes: (n, 4) float64, (x, y, w, h). Those that `value_checks` calls wrong pass.
        image_sizes: (n, 2) int64, width and height; of images without a size, all boxes pass.
    """
    usable = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1)
    usable &= (image_sizes > 0).all(axis=1)
    low, size = boxes[:, :2], boxes[:, 2:]
    with np.errstate(over="ignore", invalid="ignore"):
        high = low + size
    # An empty box may lie on the border, where a box with an inside would be outside.
    inside = (size > 0).all(axis=1)[:, None]
    outside = np.where(inside, (low >= image_sizes) | (high <= 0), (low > image_sizes) | (high < 0))
    outside = usable & outside.any(axis=1)
    beyond = usable & ~outside & ((low < 0) | (high > image_sizes)).any(axis=1)

    def words(how: str):
        return lambda i: (
            f"has bbox {_shown(boxes[i])} {how} its image, "
            f"which is {image_sizes[i, 1]} high and {image_sizes[i, 0]} wide"
        )

    return [Check(outside, words("wholly outside")), Check(beyond, words("beyond"), note="beyond")]


def _shown(box: np.ndarray) -> str:
    return f"[{', '.join(f'{value:.10g}' for value in box.tolist())}]"
