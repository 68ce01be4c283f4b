"""Attention for training on CPUs, where PyTorch has no fused one with dropout or a trained bias."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.dropout import random_mask
from models.linear import linear

CHUNK = 2**20  # elements of the logits that are worked on at a time: they stay in the cache


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
        weights = q.new_empty(*q.shape[:3], k.shape[2])
        mask = torch.empty_like(weights, dtype=torch.bool) if dropout_p > 0 else None
        out = torch.empty_like(q)
        ctx.stay = 1.0
        expanded = [term.expand(weights.shape) for term in terms]
        with torch.autocast("cpu", enabled=False):
            for part in _chunks(weights):
                logits = _product(q[part], k[part])
                for term in expanded:
                    logits += term[part]
                torch.softmax(logits, dim=-1, out=weights[part])
                if mask is not None:
                    mask[part], ctx.stay = random_mask(logits.shape, dropout_p)
                out[part] = _product(_dropped(weights, mask, part), v[part].mT)
        ctx.term_shapes = [term.shape for term in terms]
        ctx.save_for_backward(q, k, v, weights, mask)
        return out.div_(ctx.stay)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, mask = ctx.saved_tensors
        grad = (grad / ctx.stay).to(v.dtype)
        grads = grad_q, grad_k, grad_v = [torch.empty_like(tensor) for tensor in (q, k, v)]
        wanted = ctx.needs_input_grad[4:]
        grad_logits = torch.empty_like(weights) if any(wanted) else None
        for part in _chunks(weights):
            grad_v[part] = _dropped(weights, mask, part).mT @ grad[part]
            of_weights = _product(grad[part], v[part])
            if mask is not None:
                of_weights *= mask[part]
            of_logits = torch._softmax_backward_data(
                of_weights,
                weights[part],
                -1,
                v.dtype,
                grad_input=None if grad_logits is None else grad_logits[part],
            )
            grad_q[part] = _product(of_logits, k[part].mT)
            grad_k[part] = of_logits.mT @ q[part]
        grad_terms = [
            grad_logits.sum_to_size(shape) if want else None
            for shape, want in zip(ctx.term_shapes, wanted, strict=True)
        ]
        return *grads, None, *grad_terms


def _chunks(weights: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut (B, H, Lq, Lk) into images and heads of about CHUNK elements together.

    Not in 16 bits: products of a single head take PyTorch twice as long there.
    """
    batch, num_heads, len_q, len_k = weights.shape
    heads = batch * num_heads
    if weights.itemsize > 2:
        heads = min(max(CHUNK // max(len_q * len_k, 1), 1), heads)
    images = max(heads // num_heads, 1)
    for image in range(0, batch, images):
        for head in range(0, num_heads, heads):
            yield slice(image, image + images), slice(head, head + heads)


def _product(x: Tensor, y: Tensor) -> Tensor:
    """x y^T; x: (b, h, n, d), y: (b, h, m, d)."""
    if x.shape[0] == x.shape[1] == 1:
        return linear(x[0, 0], y[0, 0])[None, None]
    return x @ y.mT


def _dropped(weights: Tensor, mask: Tensor | None, part: tuple[slice, slice]) -> Tensor:
    """Without the scale, which is cheaper applied to smaller tensors."""
    return weights[part] if mask is None else weights[part] * mask[part]
