"""The bias of a decoder layer's attention, kept as its parts, and attention with it."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..rpe_attention import RPEMultiheadAttention


class BoxBias(NamedTuple):
    """What reference boxes add to the logits of a decoder layer.

    Attributes:
        rows: (B, heads, Q, H) and
        columns: (B, heads, Q, W): the bias of query q at row y and column x of the image is
            rows[..., q, y] + columns[..., q, x].
        pairs: (B * heads, Q, Q), the bias of a query (second to last axis) at another one; None
            without relations.
    """

    rows: Tensor
    columns: Tensor
    pairs: Tensor | None

    def of_pixels(self, padding: Tensor) -> Tensor:
        """Return the bias of all pixels, with padding, (B * heads, Q, H * W).

        Args:
            padding: (B, H * W), -inf on padding, else 0.
        """
        bias = (self.rows[..., None] + self.columns[..., None, :]).flatten(-2)
        return bias.add_(padding[:, None, None]).flatten(0, 1)


def attend_around_boxes(
    attention: RPEMultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor,
    bias: BoxBias,
) -> Tensor:
    """Compute attention to an image with a bias; the bias of all pixels is not kept.

    For the backward pass a layer keeps the parts of its bias, never all of it, which would be a
    tensor of the size of the logits. The CPU's attention (`rpe_ops.attention.cpu`) keeps no terms
    of its logits, and compiled code computes what is cheap again by itself. PyTorch's attention on
    other devices keeps its mask, so there the attention is computed again.

    Args:
        query, key, value: (Q, B, C), twice (H * W, B, C).
        padding: (B, H * W), -inf on padding, else 0.

    Returns:
        (Q, B, C).
    """

    def attend(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        mask = BoxBias(rows, columns, None).of_pixels(padding)
        return attention(query, key, value, attn_mask=mask, need_weights=False)[0]

    inputs = (query, key, value, bias.rows, bias.columns)
    if torch.is_grad_enabled() and keeps_masks(query.device):
        return checkpoint(attend, *inputs, use_reentrant=False)
    return attend(*inputs)


def keeps_masks(device: torch.device) -> bool:
    """Return whether attention on a device keeps its mask for the backward pass."""
    return device.type != "cpu" and not torch.compiler.is_compiling()
