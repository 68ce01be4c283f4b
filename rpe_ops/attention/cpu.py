"""Attention for training on CPUs, where PyTorch's fused kernel has neither dropout nor RPE.

On CPUs scaled_dot_product_attention is fused, but not with dropout or a term that is trained: then
it computes the formula step by step and keeps three or four tensors of (B, H, Lq, Lk). Here the
softmax and one byte an element for dropout are kept.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import sdpa
from .call import AttentionCall
from .dropout import random_mask
from .linear import linear

CHUNK = 2**20  # elements of the logits computed at a time, so that they stay in the CPU's cache


def why_not(call: AttentionCall) -> str | None:
    """Return why the call is not supported, or is faster with `sdpa`; None if neither."""
    reason = sdpa.why_not(call)
    if reason is not None:
        return reason
    if call.q.device.type != "cpu":
        return f"it runs on CPUs, not on {call.q.device}"
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return "it is meant for training in eager mode"
    if call.dropout_p == 0 and not any(term.requires_grad for term in call.terms()):
        return "PyTorch's fused kernel supports this"
    return None


def attend(call: AttentionCall) -> tuple[Tensor, None]:
    """Compute the output (B, H, Lq, D)."""
    return cpu_attention(call.q, call.k, call.v, call.terms(), call.dropout_p), None


def cpu_attention(
    q: Tensor, k: Tensor, v: Tensor, terms: Sequence[Tensor], dropout_p: float
) -> Tensor:
    """Compute dropout(softmax(q k^T + terms)) v.

    Args:
        q: (B, H, Lq, D), scaled already.
        k, v: (B, H, Lk, D).
        terms: added to the logits in this order, each broadcasts to (B, H, Lq, Lk).
        dropout_p: probability with which a weight is dropped.

    Returns:
        (B, H, Lq, D), differentiable once.
    """
    return _CpuAttention.apply(q, k, v, dropout_p, *terms)


class _CpuAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, dropout_p: float, *terms: Tensor) -> Tensor:
        weights = q.new_empty(*q.shape[:3], k.shape[2])
        mask = torch.empty_like(weights, dtype=torch.bool) if dropout_p > 0 else None
        out = torch.empty_like(q)
        ctx.keep_probability = 1.0
        expanded = [term.expand(weights.shape) for term in terms]
        # The inputs have autocast's dtype already, and buffers have that of q.
        with torch.autocast("cpu", enabled=False):
            for part in _chunks(weights):
                logits = _product(q[part], k[part])
                for term in expanded:
                    logits += term[part]
                torch.softmax(logits, dim=-1, out=weights[part])
                if mask is not None:
                    mask[part], ctx.keep_probability = random_mask(logits.shape, dropout_p)
                out[part] = _product(_dropped(weights, mask, part), v[part].mT)
        ctx.term_shapes = [term.shape for term in terms]
        ctx.save_for_backward(q, k, v, weights, mask)
        return out.div_(ctx.keep_probability)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, mask = ctx.saved_tensors
        grad = (grad / ctx.keep_probability).to(v.dtype)
        grads = grad_q, grad_k, grad_v = [torch.empty_like(tensor) for tensor in (q, k, v)]
        term_needs_grad = ctx.needs_input_grad[4:]
        # Without a trained term the gradient of the logits is only ever needed chunk by chunk.
        grad_logits = torch.empty_like(weights) if any(term_needs_grad) else None
        for part in _chunks(weights):
            grad_v[part] = _dropped(weights, mask, part).mT @ grad[part]
            chunk_grad_weights = _product(grad[part], v[part])
            if mask is not None:
                chunk_grad_weights *= mask[part]
            chunk_grad_logits = torch._softmax_backward_data(
                chunk_grad_weights,
                weights[part],
                -1,
                v.dtype,
                grad_input=None if grad_logits is None else grad_logits[part],
            )
            grad_q[part] = _product(chunk_grad_logits, k[part].mT)
            grad_k[part] = chunk_grad_logits.mT @ q[part]
        grad_terms = [
            grad_logits.sum_to_size(shape) if needs_grad and grad_logits is not None else None
            for shape, needs_grad in zip(ctx.term_shapes, term_needs_grad, strict=True)
        ]
        return *grads, None, *grad_terms


def _chunks(weights: Tensor) -> Iterator[tuple[slice, slice]]:
    """Split the first two axes of (B, H, Lq, Lk) into chunks of about CHUNK elements.

    With 16 bits a chunk has at least all heads of an image: PyTorch's products of single heads take
    twice as long there.
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
    """Compute x y^T of x: (b, h, n, d) and y: (b, h, m, d)."""
    if x.shape[0] == x.shape[1] == 1:
        return linear(x[0, 0], y[0, 0])[None, None]
    return x @ y.mT


def _dropped(weights: Tensor, mask: Tensor | None, part: tuple[slice, slice]) -> Tensor:
    """Drop weights without rescaling the rest: that is cheaper on the smaller output."""
    return weights[part] if mask is None else weights[part] * mask[part]
