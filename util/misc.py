"""Batches of images of different size, and how the data loader makes them."""

from collections.abc import Sequence

import torch
from torch import Tensor


class NestedTensor:
    """Images padded to one size, and where the padding is.

    Attributes:
        tensors: (B, C, H, W), zero on padding.
        mask: (B, H, W) bool, True on padding.
    """

    def __init__(self, tensors: Tensor, mask: Tensor):
        self.tensors = tensors
        self.mask = mask

    def to(self, device: torch.device) -> "NestedTensor":
        """On `device`; from pinned memory the copy goes on in the background."""
        return NestedTensor(
            self.tensors.to(device, non_blocking=True), self.mask.to(device, non_blocking=True)
        )

    def pin_memory(self) -> "NestedTensor":
        """What a DataLoader with pin_memory calls."""
        return NestedTensor(self.tensors.pin_memory(), self.mask.pin_memory())

    def decompose(self) -> tuple[Tensor, Tensor]:
        return self.tensors, self.mask

    def __repr__(self) -> str:
        return f"NestedTensor(tensors={tuple(self.tensors.shape)}, mask={tuple(self.mask.shape)})"


def nested_tensor_from_tensor_list(images: Sequence[Tensor] | Tensor) -> NestedTensor:
    """Pad images (C, H_i, W_i) right and bottom to the largest height and width."""
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    tensors = images[0].new_empty(len(images), images[0].shape[0], height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool, device=tensors.device)
    for image, padded, padding in zip(images, tensors, mask, strict=True):
        _, h, w = image.shape
        padded[:, :h, :w].copy_(image)
        padded[:, :h, w:] = 0  # only what is padding: most of a batch is not
        padded[:, h:] = 0
        padding[:h, :w] = False
    return NestedTensor(tensors, mask)


def collate_fn(batch: Sequence[tuple[Tensor, dict]]) -> tuple[NestedTensor, list[dict]]:
    """[(image, target), ...] -> (padded images, [target, ...])."""
    images, targets = zip(*batch, strict=True)
    return nested_tensor_from_tensor_list(images), list(targets)
