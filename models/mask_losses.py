"""Focal and dice loss of masks (DETR, section 4.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torchvision.ops import sigmoid_focal_loss

ALPHA, GAMMA = 0.25, 2
OBJECTS_AT_ONCE = 8  # masks upsampled together, which bounds memory


def mask_losses(logits: list[Tensor], masks: list[Tensor], num_boxes: Tensor) -> dict[str, Tensor]:
    """Compare the masks of matched queries with those of their objects.

    Args:
        logits: one tensor per image, (n, h, w), in the coordinates of the padded images.
        masks: one tensor per image, (n, H_i, W_i) bool, not padded.
        num_boxes: scalar, divides the sums over all objects.

    Returns:
        loss_mask (focal, a mean over pixels) and loss_dice: scalars, summed over objects and
        divided by num_boxes.
    """
    height = max(mask.shape[1] for mask in masks)
    width = max(mask.shape[2] for mask in masks)
    # A batch without objects still needs a graph to every parameter of the mask head: DDP waits for
    # the gradient of each.
    total = torch.stack([image_logits.sum() * 0 for image_logits in logits]).sum().expand(2)
    for image_logits, target in zip(logits, masks, strict=True):
        padded = F.pad(target, [0, width - target.shape[2], 0, height - target.shape[1]])
        parts = zip(image_logits.split(OBJECTS_AT_ONCE), padded.split(OBJECTS_AT_ONCE), strict=True)
        for part in parts:
            # Checkpointed, so that no tensor of the images' size is kept for the backward pass.
            total = total + checkpoint(
                _summed_losses, *part, use_reentrant=False, preserve_rng_state=False
            )
    loss_mask, loss_dice = total / num_boxes
    return {"loss_mask": loss_mask, "loss_dice": loss_dice}


def _summed_losses(logits: Tensor, masks: Tensor) -> Tensor:
    """Return both losses of logits (n, h, w) and masks (n, H, W), summed over objects: (2,)."""
    logits = F.interpolate(logits[:, None], size=masks.shape[1:], mode="bilinear")[:, 0].flatten(1)
    targets = masks.flatten(1).to(logits.dtype)
    focal = sigmoid_focal_loss(logits, targets, ALPHA, GAMMA).mean(1)
    return torch.stack([focal.sum(), dice_loss(logits, targets).sum()])


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Compute 1 - (2 |A and B| + 1) / (|A| + |B| + 1) for predicted masks A and targets B.

    Args:
        logits: (n, P), P pixels.
        masks: (n, P), 0 or 1.

    Returns:
        (n,).
    """
    probability = logits.sigmoid()
    shared = (probability * masks).sum(1)
    return 1 - (2 * shared + 1) / (probability.sum(1) + masks.sum(1) + 1)
