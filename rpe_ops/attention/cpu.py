"""Attention for training on CPUs, where PyTorch's fused kernel has neither dropout nor RPE.

On CPUs scaled_dot_product_attention is fused, but not with dropout or a term that is trained: then
it computes the formula step by step and keeps three or four tensors of (B, H, Lq, Lk). Here the
softmax and one byte an element for dropout are kept, and RPE is looked up part by part.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rpe_ops.functions import is_transformed

from . import sdpa
from .call import AttentionCall
from .dropout import random_mask
from .encodings import LookedUp, OnValues, knows_values, on_logits, on_values, wide
from .linear import linear

CHUNK = 2**20  # elements of the logits computed at a time, so that they stay in the CPU's cache


def why_not(call: AttentionCall) -> str | None:
    """Return why the call is not supported, or is faster with `sdpa`; None if neither."""
    reason = sdpa.why_formula(call)
    if reason is not None:
        return reason
    if call.q.device.type != "cpu":
        return f"it runs on CPUs, not on {call.q.device}"
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return "it is meant for training in eager mode"
    if is_transformed():
        return "it has no rules for torch.func and forward-mode differentiation"
    dtypes = {call.q.dtype, call.k.dtype, call.v.dtype}
    if torch.is_autocast_enabled("cpu"):
        dtypes.add(torch.get_autocast_dtype("cpu"))
    if len(dtypes) > 1:
        return "queries, keys and values have several dtypes, or another one than autocast's"
    if not knows_values(call):
        return "RPE on values is a module of another kind"
    masks = (call.key_padding_mask, call.attn_mask)
    if (
        call.rpe_q is call.rpe_k is call.rpe_v is None
        and call.dropout_p == 0
        and not any(mask is not None and mask.requires_grad for mask in masks)
    ):
        return "PyTorch's fused kernel supports this"
    return None


def attend(call: AttentionCall) -> tuple[Tensor, None]:
    """Compute the output (B, H, Lq, D)."""
    looked_up, terms = on_logits(call)
    values = on_values(call)
    assert values is not None  # says why_not
    return cpu_attention(call.q, call.k, call.v, terms, call.dropout_p, looked_up, values), None


def cpu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    terms: Sequence[Tensor],
    dropout_p: float,
    looked_up: Sequence[LookedUp] = (),
    values: Sequence[OnValues] = (),
) -> Tensor:
    """Compute weights v + RPE on values of weights = dropout(softmax(q k^T + looked_up + terms)).

    Args:
        q: (B, H, Lq, D), scaled already.
        k, v: (B, H, Lk, D).
        terms: added to the logits in this order, each broadcasts to (B, H, Lq, Lk).
        dropout_p: probability with which a weight is dropped.
        looked_up: contextual RPE, added to the logits before `terms`.
        values: RPE on values.

    Returns:
        (B, H, Lq, D), differentiable once.
    """
    # autograd follows tensors that are arguments themselves.
    tables = [table for _, of_encoding in looked_up for table in of_encoding]
    trained = (*tables, *(value.table for value in values), *terms)
    return _CpuAttention.apply(q, k, v, dropout_p, looked_up, values, len(terms), *trained)


class _CpuAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float,
        looked_up: Sequence[LookedUp],
        values: Sequence[OnValues],
        num_terms: int,
        *trained: Tensor,
    ) -> Tensor:
        terms = trained[len(trained) - num_terms :]
        weights = q.new_empty(*q.shape[:3], k.shape[2])
        mask = torch.empty_like(weights, dtype=torch.bool) if dropout_p > 0 else None
        out = torch.empty_like(q)
        ctx.keep_probability = 1.0
        expanded = [term.expand(weights.shape) for term in terms]
        # The inputs have autocast's dtype already, and buffers have that of q.
        with torch.autocast("cpu", enabled=False):
            for part in _chunks(weights):
                logits = _product(q[part], k[part])
                for encoding, tables in looked_up:
                    encoding.add_to(logits, tables, part)
                for term in expanded:
                    logits += term[part]
                torch.softmax(logits, dim=-1, out=weights[part])
                if mask is not None:
                    mask[part], ctx.keep_probability = random_mask(logits.shape, dropout_p)
                dropped = _dropped(weights, mask, part)
                out[part] = _product(dropped, v[part].mT)
                for value in values:
                    out[part] += value.of(dropped, part[1])
        ctx.looked_up = [(encoding, [x.shape for x in tables]) for encoding, tables in looked_up]
        ctx.value_ids = [value.ids for value in values]
        ctx.term_shapes = [term.shape for term in terms]
        ctx.save_for_backward(q, k, v, weights, mask, *(value.table for value in values))
        return out.div_(ctx.keep_probability)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Not once_differentiable: autograd.grad goes around the error that it leaves for later, and
        # returns what it finds on other ways.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "attention on a CPU is differentiable once, and create_graph=True asks for more: "
                'attention="math" is, any number of times'
            )
        q, k, v, weights, mask, *rows = ctx.saved_tensors
        values = [OnValues(*pair) for pair in zip(rows, ctx.value_ids, strict=True)]
        grad = (grad / ctx.keep_probability).to(v.dtype)
        grads = grad_q, grad_k, grad_v = [torch.empty_like(tensor) for tensor in (q, k, v)]
        grad_tables = [[q.new_empty(shape) for shape in shapes] for _, shapes in ctx.looked_up]
        grad_rows = [torch.zeros_like(table, dtype=wide(table.dtype)) for table in rows]
        needs_term = ctx.needs_input_grad[len(ctx.needs_input_grad) - len(ctx.term_shapes) :]
        # Without a trained term the gradient of the logits is only ever needed chunk by chunk.
        grad_logits = torch.empty_like(weights) if any(needs_term) else None
        for part in _chunks(weights):
            dropped = _dropped(weights, mask, part)
            grad_v[part] = dropped.mT @ grad[part]
            chunk_grad_weights = _product(grad[part], v[part])
            for value, of_rows in zip(values, grad_rows, strict=True):
                chunk_grad_weights += value.weights_grad(grad[part], part[1])
                of_rows[value.rows_of(part[1])] += value.table_grad(dropped, grad[part])
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
            for (encoding, _), of_tables in zip(ctx.looked_up, grad_tables, strict=True):
                encoding.sum_into(of_tables, chunk_grad_logits, part)
        grad_terms = [
            grad_logits.sum_to_size(shape) if needs_grad and grad_logits is not None else None
            for shape, needs_grad in zip(ctx.term_shapes, needs_term, strict=True)
        ]
        flat = [table for tables in grad_tables for table in tables]
        cast = [summed.to(table.dtype) for summed, table in zip(grad_rows, rows, strict=True)]
        return *grads, None, None, None, None, *flat, *cast, *grad_terms


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
