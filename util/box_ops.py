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
    centre, size = x.split(2, -1)
    half = 0.5 * size
    return torch.cat([centre - half, centre + half], -1)


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
    (low1, high1), (low2, high2) = boxes1.split(2, -1), boxes2.split(2, -1)
    size = torch.minimum(high1, high2) - torch.maximum(low1, low2)
    overlap = _area(size)
    overlap = torch.where((size > 0).all(-1), overlap, torch.zeros_like(overlap))
    return overlap, _area(high1 - low1) + _area(high2 - low2) - overlap


def _hull(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the area of the smallest box around both."""
    (low1, high1), (low2, high2) = boxes1.split(2, -1), boxes2.split(2, -1)
    return _area(torch.maximum(high1, high2) - torch.minimum(low1, low2))


def _area(size: Tensor) -> Tensor:
    """Multiply widths and heights (..., 2)."""
    width, height = size.unbind(-1)
    return width * height
