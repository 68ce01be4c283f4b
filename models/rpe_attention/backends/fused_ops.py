"""Operators that launch the Triton kernels of fused attention.

As custom operators with a registered gradient they work under torch.compile, which does not look
inside.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .fused_backward import backward_keys_kernel, backward_queries_kernel
from .fused_forward import forward_kernel


def _out_like(q: Tensor) -> Tensor:
    """Allocate (B, H, L, D) in the memory layout (L, B, H, D) of the output projection."""
    batch, heads, length, head_dim = q.shape
    return q.new_empty(length, batch, heads, head_dim).permute(1, 2, 0, 3)


class _Sizes(NamedTuple):
    """Block sizes of a program: powers of two of at least 16, as tl.dot needs."""

    head_dim: int
    owned: int  # tokens of the tile
    chunk: int  # tokens of a chunk
    warps: int


def _sizes(q: Tensor, width: int) -> _Sizes:
    """Return the largest blocks with which the compiler spills few registers on sm_80 and sm_90.

    float32 products do not use tensor cores and need more registers.
    """
    head_dim = max(16, triton.next_power_of_2(q.shape[3]))
    if q.dtype != torch.float32:
        owned, chunk, warps = (64 if head_dim <= 64 else 32), 32, 8
    elif head_dim <= 32:
        owned, chunk, warps = 32, 32, 8
    else:
        owned, chunk, warps = 16, 16, 4
    # The chunk with the least surplus at the end of a row of the map; the larger one if equal.
    chunk = min((chunk, 16), key=lambda block: triton.cdiv(width, block) * block)
    return _Sizes(head_dim, owned, chunk, warps)


def _pointer(tensor: Tensor | None) -> tuple[Tensor | None, tuple[int, ...]]:
    return tensor, (0, 0, 0, 0) if tensor is None else tensor.stride()


def _grid(q: Tensor, owned: int) -> tuple[int]:
    return (q.shape[0] * q.shape[1] * triton.cdiv(q.shape[2], owned),)


@torch.library.custom_op("rpe_attention::fused_forward", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    t_k: Tensor | None,
    offsets_k: Tensor | None,
    side_k: int,
    t_q: Tensor | None,
    offsets_q: Tensor | None,
    side_q: int,
    height: int,
    width: int,
    padding: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    """Return the output (B, H, L, D) and the log-sum-exp of the logits (B, H, L), float32."""
    out = _out_like(q)
    log_sum_exp = q.new_empty(q.shape[:3], dtype=torch.float32)
    sizes = _sizes(q, width)
    with torch.cuda.device_of(q):  # Triton launches on the current device
        forward_kernel[_grid(q, sizes.owned)](
            *_pointer(q), *_pointer(k), *_pointer(v), *_pointer(t_k), offsets_k,
            *_pointer(t_q), offsets_q, _bytes(padding), seed, dropout_p, *_pointer(out),
            log_sum_exp, q.shape[1], height, width, HEAD_DIM=q.shape[3], BLOCK_D=sizes.head_dim,
            BLOCK_M=sizes.owned, BLOCK_N=sizes.chunk, num_warps=sizes.warps,
        )  # fmt: skip
    return out, log_sum_exp


@torch.library.custom_op("rpe_attention::fused_backward", mutates_args=())
def _backward(
    d_out: Tensor,
    out: Tensor,
    log_sum_exp: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    t_k: Tensor | None,
    offsets_k: Tensor | None,
    side_k: int,
    t_q: Tensor | None,
    offsets_q: Tensor | None,
    side_q: int,
    height: int,
    width: int,
    padding: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v, t_k, t_q; empty tensors for tables that are None."""
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    dt_k, dt_q = (_table_gradient(t, q) for t in (t_k, t_q))
    delta = (out.float() * d_out).sum(-1).contiguous()
    sizes = _sizes(q, width)
    inputs = (
        *_pointer(q), *_pointer(k), *_pointer(v), *_pointer(t_k), offsets_k,
        *_pointer(t_q), offsets_q, _bytes(padding), seed, dropout_p, *_pointer(d_out),
        log_sum_exp, delta,
    )  # fmt: skip
    shape = (q.shape[1], height, width)
    common = {"HEAD_DIM": q.shape[3], "BLOCK_D": sizes.head_dim, "num_warps": sizes.warps}
    with torch.cuda.device_of(q):
        backward_queries_kernel[_grid(q, sizes.owned)](
            *inputs, *_pointer(dq), *_pointer(dt_k), *shape, **common,
            BLOCK_M=sizes.owned, BLOCK_N=sizes.chunk,
            SEGMENT=side_k, BLOCK_S=triton.next_power_of_2(side_k),
        )  # fmt: skip
        backward_keys_kernel[_grid(q, sizes.owned)](
            *inputs, *_pointer(dk), *_pointer(dv), *_pointer(dt_q), *shape, **common,
            BLOCK_M=sizes.chunk, BLOCK_N=sizes.owned,
            SEGMENT=side_q, BLOCK_S=triton.next_power_of_2(side_q),
        )  # fmt: skip
    return dq, dk, dv, dt_k, dt_q


def _bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.view(torch.uint8)


def _table_gradient(table: Tensor | None, q: Tensor) -> Tensor:
    """Allocate zeros, as the kernels write only buckets that occur in the map."""
    return q.new_empty(0) if table is None else table.new_zeros(table.shape)


@_forward.register_fake
def _(q, k, v, *others):
    return _out_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@_backward.register_fake
def _(d_out, out, log_sum_exp, q, k, v, t_k, offsets_k, side_k, t_q, *others):
    tables = (_table_gradient(t, q) for t in (t_k, t_q))
    return *(torch.empty_like(x) for x in (q, k, v)), *tables


def _save(ctx, inputs, output):
    # Tensors must be saved with save_for_backward, the other arguments must not.
    tensors = [x for x in (*inputs, *output) if isinstance(x, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.others = [None if isinstance(x, Tensor) else (x,) for x in (*inputs, *output)]


def _differentiate(ctx, d_out, _):
    saved = iter(ctx.saved_tensors)
    *inputs, out, log_sum_exp = (next(saved) if x is None else x[0] for x in ctx.others)
    ops = torch.ops.rpe_attention
    dq, dk, dv, dt_k, dt_q = ops.fused_backward(d_out, out, log_sum_exp, *inputs)
    has_k, has_q = (inputs[i] is not None for i in (3, 6))
    return dq, dk, dv, dt_k if has_k else None, *[None] * 2, dt_q if has_q else None, *[None] * 7


_forward.register_autograd(_differentiate, setup_context=_save)
