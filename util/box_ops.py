"""Box formats under DETR's names; the geometry is torchvision's.

(cx, cy, w, h) is what the model predicts, (x0, y0, x1, y1) what overlaps are computed on.
"""

from torch import Tensor
from torchvision.ops import box_convert


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) -> (..., 4)."""
    return box_convert(boxes, "cxcywh", "xyxy")


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) -> (..., 4)."""
    return box_convert(boxes, "xyxy", "cxcywh")
