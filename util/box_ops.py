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


def generalized_box_iou_loss(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Compute 1 - GIoU of pairs of boxes (Rezatofighi et al., CVPR 2019).

    torchvision.ops.generalized_box_iou_loss with eps=0 gives the same, but picks overlapping pairs
    by boolean indices, whose number the CPU has to know: on a GPU it waits five times for that, and
    five times more in the backward pass.

    Args:
        boxes1, boxes2: (..., 4), (x0, y0, x1, y1); they broadcast.

    Returns:
        (...), in [0, 2]; NaN for two boxes without an area at one place.
    """
    overlap, union = _overlap_and_union(boxes1, boxes2)
    hull = _hull(boxes1, boxes2)
    return 1 - (overlap / union - (hull - union) / hull)


def _overlap_and_union(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    (x0, y0, x1, y1), (u0, v0, u1, v1) = boxes1.unbind(-1), boxes2.unbind(-1)
    left, top = torch.maximum(x0, u0), torch.maximum(y0, v0)
    right, bottom = torch.minimum(x1, u1), torch.minimum(y1, v1)
    overlap = (right - left) * (bottom - top)
    overlap = torch.where((bottom > top) & (right > left), overlap, torch.zeros_like(overlap))
    return overlap, (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - overlap


def _hull(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the area of the smallest box around both."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = boxes1.unbind(-1), boxes2.unbind(-1)
    left, top = torch.minimum(x0, u0), torch.minimum(y0, v0)
    right, bottom = torch.maximum(x1, u1), torch.maximum(y1, v1)
    return (right - left) * (bottom - top)
