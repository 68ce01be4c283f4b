"""Operators that launch the Triton kernels of fused attention.

As custom operators with a registered gradient they work under torch.compile, which does not look
inside.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .call import additive_mask
from .fused_backward import backward_keys_kernel, backward_queries_kernel
from .fused_forward import forward_kernel


def _out_like(q: Tensor) -> Tensor:
    """Allocate (B, H, L, D) in the memory layout (L, B, H, D) of the output projection."""
    batch, heads, length, head_dim = q.shape
    return q.new_empty(length, batch, heads, head_dim).permute(1, 2, 0, 3)


# One warp a program, and while it computes a step the chunk of the next one is on its way.
LAUNCH = {"num_warps": 1, "num_stages": 2}


class _Sizes(NamedTuple):
    """Block sizes of a program: powers of two of at least 16, as tl.dot needs."""

    head_dim: int
    owned: int  # tokens of the tile
    chunk: int  # columns of a chunk


def _sizes(q: Tensor, width: int, terms: int) -> _Sizes:
    """Return the sizes of a program of one warp, whose tile fills the rows of a tensor core.

    With more warps a tile would reach over several rows of the map, and its runs would be shorter.
    """
    head_dim = max(16, triton.next_power_of_2(q.shape[3]))
    # The chunk with the least surplus at the end of a row of the map; the larger one if equal.
    chunk = min((32, 16), key=lambda block: triton.cdiv(width, block) * block)
    if head_dim > 32 or terms > 1 or q.dtype == torch.float32:
        chunk = 16  # or the registers would not suffice
    return _Sizes(head_dim, 16, chunk)


def _pointer(tensor: Tensor | None) -> tuple[Tensor | None, tuple[int, ...]]:
    return tensor, (0, 0, 0, 0) if tensor is None else tensor.stride()


def _term(table: Tensor | None, offsets: Tensor | None, side: int, name: str) -> tuple:
    """Return a kernel's arguments for a table, and its options, whose names end in `name`."""
    # Buckets of `product` are row * side + column.
    by_axis = table is not None and table.shape[3] >= side * side
    options = {f"SIDE_{name}": side, f"BY_AXIS_{name}": by_axis}
    return (*_pointer(table), offsets), options


def _grid(q: Tensor, height: int, width: int, owned: int) -> tuple[int]:
    return (q.shape[0] * q.shape[1] * height * triton.cdiv(width, owned),)


def _dropped(dropout_p: float) -> tuple[int, float]:
    """Return below which 16 random bits a weight is dropped, and the factor of those kept."""
    below = min(round(dropout_p * 2**16), 2**16 - 1)
    return below, 2**16 / (2**16 - below)


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
    """Return the output (B, H, L, D) and log_sum_exp (B, H, L) of `forward_kernel`."""
    out = _out_like(q)
    log_sum_exp = q.new_empty(q.shape[:3], dtype=torch.float32)
    sizes = _sizes(q, width, sum(t is not None for t in (t_k, t_q)))
    own, own_options = _term(t_k, offsets_k, side_k, "OWN")
    other, other_options = _term(t_q, offsets_q, side_q, "OTHER")
    with torch.cuda.device_of(q):  # Triton launches on the current device
        forward_kernel[_grid(q, height, width, sizes.owned)](
            *_pointer(q), *_pointer(k), *_pointer(v), *own, *other, _additive(padding), seed,
            *_dropped(dropout_p), *_pointer(out), log_sum_exp, q.shape[1], height, width,
            HEAD_DIM=q.shape[3], BLOCK_D=sizes.head_dim, BLOCK_O=sizes.owned, BLOCK_X=sizes.chunk,
            **LAUNCH, **own_options, **other_options,
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
    dt_k, dt_q = (
        None if t is None else t.new_zeros(t.shape, dtype=torch.float32) for t in (t_k, t_q)
    )
    below, scale = _dropped(dropout_p)
    delta = (out.float() * d_out).sum(-1).contiguous().div_(scale)
    sizes = _sizes(q, width, sum(t is not None for t in (t_k, t_q)))
    common = {"HEAD_DIM": q.shape[3], "BLOCK_D": sizes.head_dim, "BLOCK_O": sizes.owned,
              "BLOCK_X": sizes.chunk, **LAUNCH}  # fmt: skip
    term_k, term_q = (t_k, offsets_k, side_k), (t_q, offsets_q, side_q)
    outputs = (*_pointer(dq), *_pointer(dt_k)), (*_pointer(dk), *_pointer(dv), *_pointer(dt_q))
    launches = (
        (backward_queries_kernel, term_k, term_q, outputs[0]),
        (backward_keys_kernel, term_q, term_k, outputs[1]),
    )
    additive = _additive(padding)
    with torch.cuda.device_of(q):
        for kernel, of_tile, of_others, gradients in launches:
            own, own_options = _term(*of_tile, "OWN")
            other, other_options = _term(*of_others, "OTHER")
            kernel[_grid(q, height, width, sizes.owned)](
                *_pointer(q), *_pointer(k), *_pointer(v), *own, *other, additive, seed,
                below, scale, *_pointer(d_out), log_sum_exp, delta, *gradients,
                q.shape[1], height, width, **common, **own_options, **other_options,
                BLOCK_S=triton.next_power_of_2(of_tile[2]),
            )  # fmt: skip
    dt_k, dt_q = (
        q.new_empty(0) if t is None or dt is None else dt.to(t.dtype)
        for t, dt in ((t_k, dt_k), (t_q, dt_q))
    )
    return dq, dk, dv, dt_k, dt_q


def _additive(mask: Tensor | None) -> Tensor | None:
    """Make a boolean mask 0 and -inf, float32.

    Of 8 bits it would make the compiler take 8-bit products for what the mask is added to.
    """
    return None if mask is None else additive_mask(mask, torch.float32)


@_forward.register_fake
def _(q, k, v, *others):
    return _out_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@_backward.register_fake
def _(d_out, out, log_sum_exp, q, k, v, t_k, offsets_k, side_k, t_q, *others):
    tables = (q.new_empty(0) if t is None else t.new_empty(t.shape) for t in (t_k, t_q))
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
