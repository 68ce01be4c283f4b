"""Attention for training on CPUs, where PyTorch has no fused one with dropout or a trained bias."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..dropout import random_mask


def cpu_attention(
    q: Tensor, k: Tensor, v: Tensor, terms: Sequence[Tensor], dropout_p: float
) -> Tensor:
    """dropout(softmax(q k^T + terms)) v.

    Of all tensors with Lq * Lk elements a head, it keeps the softmax and one byte an element for
    dropout; scaled_dot_product_attention would keep three or four.

    Args:
        q: (B, H, Lq, D), scaled already. k, v: (B, H, Lk, D).
        terms: added to the logits one after the other, each broadcasts to (B, H, Lq, Lk).
        dropout_p: probability to leave a weight out.

    Returns:
        (B, H, Lq, D); can be differentiated once.
    """
    return _CpuAttention.apply(q, k, v, dropout_p, *terms)


class _CpuAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, dropout_p: float, *terms: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            logits = q @ k.mT
            for term in terms:
                logits += term
            weights = torch.softmax(logits, dim=-1, out=logits)
            ctx.term_shapes = [term.shape for term in terms]
            ctx.stay = 1.0
            mask = None
            if dropout_p > 0:
                mask, ctx.stay = random_mask(weights.shape, dropout_p)
            ctx.save_for_backward(q, k, v, weights, mask)
            return _dropped(weights, mask) @ v / ctx.stay

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, mask = ctx.saved_tensors
        grad = (grad / ctx.stay).to(v.dtype)
        grad_v = _dropped(weights, mask).mT @ grad
        grad_weights = grad @ v.mT
        if mask is not None:
            grad_weights *= mask
        grad_logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_terms = [
            grad_logits.sum_to_size(shape) if wanted else None
            for shape, wanted in zip(ctx.term_shapes, ctx.needs_input_grad[4:], strict=True)
        ]
        return grad_logits @ k, grad_logits.mT @ q, grad_v, None, *grad_terms


def _dropped(weights: Tensor, mask: Tensor | None) -> Tensor:
    """Without the scale, which is cheaper applied to smaller tensors."""
    return weights if mask is None else weights * mask
