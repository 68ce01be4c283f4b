"""The mask losses with DETR's signatures."""

import torch

from models import segmentation


def test_mask_losses_of_detr_follow_their_formulas():
    logits = torch.randn(3, 20, dtype=torch.float64)
    targets = (torch.rand(3, 20) > 0.5).double()
    p = logits.sigmoid()
    dice = 1 - (2 * (p * targets).sum(1) + 1) / (p.sum(1) + targets.sum(1) + 1)
    torch.testing.assert_close(segmentation.dice_loss(logits, targets, 4), dice.sum() / 4)
    right = targets * p + (1 - targets) * (1 - p)
    weight = 0.25 * targets + 0.75 * (1 - targets)
    focal = -weight * (1 - right) ** 2 * right.log()
    found = segmentation.sigmoid_focal_loss(logits, targets, 4)
    torch.testing.assert_close(found, focal.mean(1).sum() / 4)
