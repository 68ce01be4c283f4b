"""From boxes and maps to the numbers that a bias of attention is computed from."""

import math

import torch
from torch import Tensor

from util.box_ops import box_cxcywh_to_xyxy

MODES = ("linear", "log")
LOG_SCALE = 8  # parts of an image's side that offsets are counted in, before the logarithm
SMALLEST = 1e-4  # side of a box that others are compared with, as a fraction of the image's


def pixel_centres(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the pixels of a padded map are in their image.

    Args:
        mask: (B, H, W) bool, True on padding at the right and bottom.

    Returns:
        x (B, W) and y (B, H) float32: the centre of a pixel as a fraction of the unpadded part's
        width or height, from 0 to 1; on padding above 1.
    """
    inside = ~mask
    centres = []
    for axis, other in ((2, 1), (1, 2)):
        size = inside.any(other).sum(1, keepdim=True).clamp(min=1)
        steps = torch.arange(mask.shape[axis], device=mask.device)
        centres.append((steps + 0.5) / size)
    return centres[0], centres[1]


def edge_offsets(boxes: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the edges of boxes from places, for each axis by itself.

    Args:
        boxes: (B, Q, 4), (cx, cy, w, h) in [0, 1].
        x, y: (B, W), (B, H), see `pixel_centres`.

    Returns:
        (B, Q, W, 2): x minus the left edge, x minus the right one; and (B, Q, H, 2): y minus the
        top edge, y minus the bottom one.
    """
    corners = box_cxcywh_to_xyxy(boxes)[:, :, None]  # (B, Q, 1, 4)
    return x[:, None, :, None] - corners[..., 0::2], y[:, None, :, None] - corners[..., 1::2]


def scaled_offsets(offsets: Tensor, mode: str) -> Tensor:
    """Scale offsets, which are fractions of the image's sides, as `mode` says.

    "linear" leaves them as they are. "log" is sign(d) log2(|d| + 1) / log2(8), d = 8 offsets (Swin
    Transformer V2's; SAM 3 and Plain DETR use it for boxes): fine near an edge, coarse far away.
    """
    if mode == "linear":
        return offsets
    scaled = offsets * LOG_SCALE
    return scaled.sign() * (scaled.abs() + 1).log2() / math.log2(LOG_SCALE)


def pair_relations(boxes: Tensor) -> Tensor:
    """Compare each two boxes of an image, as Relation Networks do (CVPR 2018).

    Args:
        boxes: (B, Q, 4), (cx, cy, w, h) in [0, 1].

    Returns:
        (B, Q, Q, 4): of boxes i and j log(|dx| / w_i + 1), log(|dy| / h_i + 1), log(w_i / w_j),
        log(h_i / h_j), the distances dx, dy of their centres. The 1 is Relation-DETR's (ECCV 2024):
        boxes with the same centre have distance 0, not minus infinity.
    """
    centres, sizes = boxes.split(2, -1)
    sizes = sizes.clamp(min=SMALLEST)
    distances = (centres[:, :, None] - centres[:, None]).abs() / sizes[:, :, None]
    logs = sizes.log()
    return torch.cat([(distances + 1).log(), logs[:, :, None] - logs[:, None]], -1)
