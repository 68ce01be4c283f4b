"""Geometry of boxes under DETR's names.

Boxes are (cx, cy, w, h), which the model predicts, or (x0, y0, x1, y1), on which overlaps are
computed.
"""

import torch
from torch import Tensor
from torchvision.ops import box_area, box_convert, generalized_box_iou, masks_to_boxes

__all__ = [
    "box_area", "box_cxcywh_to_xyxy", "box_iou", "box_xyxy_to_cxcywh", "generalized_box_iou",
    "masks_to_boxes",
]  # fmt: skip


def box_cxcywh_to_xyxy(x: Tensor) -> Tensor:
    """Convert boxes (..., 4)."""
    return box_convert(x, "cxcywh", "xyxy")


def box_xyxy_to_cxcywh(x: Tensor) -> Tensor:
    """Convert boxes (..., 4)."""
    return box_convert(x, "xyxy", "cxcywh")


def box_iou(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Compare boxes (N, 4) with boxes (M, 4), both (x0, y0, x1, y1).

    Returns:
        Intersection over union and union, both (N, M). (torchvision's returns the first alone.)
    """
    top_left = torch.maximum(boxes1[:, None, :2], boxes2[:, :2])
    bottom_right = torch.minimum(boxes1[:, None, 2:], boxes2[:, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=2)
    union = box_area(boxes1)[:, None] + box_area(boxes2) - intersection
    return intersection / union, union
