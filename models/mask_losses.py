"""Focal and dice loss of masks (DETR, section 4.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torchvision.ops import sigmoid_focal_loss

ALPHA, GAMMA = 0.25, 2
OBJECTS_AT_ONCE = 8  # whose masks are enlarged together


def mask_losses(logits: list[Tensor], masks: list[Tensor], num_boxes: Tensor) -> dict[str, Tensor]:
    """Compare the masks of matched queries with those of their objects.

    Args:
        logits: one an image, (n, h, w), in the coordinates of the padded images.
        masks: one an image, (n, H_i, W_i) bool; padding belongs to no object.
        num_boxes: what the sums over all objects are divided by.

    Returns:
        loss_mask (focal) and loss_dice, each the mean over an object's pixels, summed over objects
        and divided by num_boxes.
    """
    height = max(mask.shape[1] for mask in masks)
    width = max(mask.shape[2] for mask in masks)
    total = sum(of_image.sum() * 0 for of_image in logits).expand(2)  # of no object at all
    for of_image, wanted in zip(logits, masks, strict=True):
        padded = F.pad(wanted, [0, width - wanted.shape[2], 0, height - wanted.shape[1]])
        parts = zip(of_image.split(OBJECTS_AT_ONCE), padded.split(OBJECTS_AT_ONCE), strict=True)
        for part in parts:
            # Nothing of the images' size is kept for the backward pass.
            total = total + checkpoint(
                _summed_losses, *part, use_reentrant=False, preserve_rng_state=False
            )
    loss_mask, loss_dice = total / num_boxes
    return {"loss_mask": loss_mask, "loss_dice": loss_dice}


def _summed_losses(logits: Tensor, masks: Tensor) -> Tensor:
    """(n, h, w) and (n, H, W) -> the two losses, each summed over the objects: (2,)."""
    logits = F.interpolate(logits[:, None], size=masks.shape[1:], mode="bilinear")[:, 0].flatten(1)
    wanted = masks.flatten(1).to(logits.dtype)
    focal = sigmoid_focal_loss(logits, wanted, ALPHA, GAMMA).mean(1)
    return torch.stack([focal.sum(), dice_loss(logits, wanted).sum()])


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - (2 |found and wanted| + 1) / (|found| + |wanted| + 1) of n masks.

    Args:
        logits: (n, P).
        masks: (n, P), 0 or 1.

    Returns:
        (n,).
    """
    found = logits.sigmoid()
    shared = (found * masks).sum(1)
    return 1 - (2 * shared + 1) / (found.sum(1) + masks.sum(1) + 1)
