"""Operators that launch the Triton kernels of fused attention.

As custom operators with a registered gradient they work under torch.compile, which does not look
inside.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .call import additive_mask
from .kernels.backward_keys import backward_keys_kernel
from .kernels.backward_queries import backward_queries_kernel
from .kernels.forward import forward_kernel

# One warp a program, and while it computes a step the chunk of the next one is on its way.
LAUNCH = {"num_warps": 1, "num_stages": 2}
OWNED = 16  # tokens of a tile: the rows of a tensor core


class _Map(NamedTuple):
    """Height and width of a map, and the number of extra tokens before it."""

    height: int
    width: int
    skip: int


def _maps(maps: Sequence[int]) -> tuple[_Map, _Map]:
    """Return the maps of queries and keys."""
    return _Map(*maps[:3]), _Map(*maps[3:])


def _out_like(q: Tensor) -> Tensor:
    """Allocate (B, H, L, D) in the memory layout (L, B, H, D) of the output projection."""
    batch, heads, length, head_dim = q.shape
    return q.new_empty(length, batch, heads, head_dim).permute(1, 2, 0, 3)


def _options(q: Tensor, maps: Sequence[int], others: _Map, terms: int) -> dict[str, int]:
    """Return the sizes of a program of one warp, whose tile fills the rows of a tensor core.

    With more warps a tile would reach over several rows of the map, and its runs would be shorter.

    Args:
        others: the map that the program goes over.
        terms: number of tables.
    """
    of_queries, of_keys = _maps(maps)
    head_dim = max(16, triton.next_power_of_2(q.shape[3]))
    # The chunk with the least surplus at the end of a row of the map; the larger one if equal.
    chunk = min((32, 16), key=lambda block: triton.cdiv(others.width, block) * block)
    if head_dim > 32 or terms > 1 or q.dtype == torch.float32:
        chunk = 16  # or the registers would not suffice
    return {
        "HEAD_DIM": q.shape[3],
        "BLOCK_D": head_dim,  # powers of two of at least 16, as tl.dot needs
        "BLOCK_O": OWNED,
        "BLOCK_X": chunk,
        "EXTRA": of_queries.skip + of_keys.skip > 0,
        "SCALED": of_queries[:2] != of_keys[:2],
        **LAUNCH,
    }


def _grid(q: Tensor, owned: _Map) -> tuple[int]:
    tiles = owned.height * triton.cdiv(owned.width, OWNED) + triton.cdiv(owned.skip, OWNED)
    return (q.shape[0] * q.shape[1] * tiles,)


def _pointer(tensor: Tensor | None) -> tuple[Tensor | None, tuple[int, ...]]:
    return tensor, (0, 0, 0, 0) if tensor is None else tensor.stride()


def _axes(name: str, side: int, by_axis: bool) -> dict[str, int]:
    return {f"SIDE_{name}": side, f"BY_AXIS_{name}": by_axis}


def _dropped(dropout_p: float) -> tuple[int, float]:
    """Return below which 16 random bits a weight is dropped, and the factor of those kept."""
    below = min(round(dropout_p * 2**16), 2**16 - 1)
    return below, 2**16 / (2**16 - below)


def _additive(mask: Tensor | None) -> Tensor | None:
    """Make a boolean mask 0 and -inf, float32.

    Of 8 bits it would make the compiler take 8-bit products for what the mask is added to.
    """
    return None if mask is None else additive_mask(mask, torch.float32)


def _buckets(maps: Sequence[int], side: int, by_axis: bool) -> int:
    """Return the number of buckets that weights are summed into."""
    extra = maps[2] + maps[5] > 0
    return (side * side if by_axis else side) + extra


@torch.library.custom_op("rpe_attention::fused_forward", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    t_k: Tensor | None,
    offsets_k: Tensor | None,
    side_k: int,
    by_axis_k: bool,
    t_q: Tensor | None,
    offsets_q: Tensor | None,
    side_q: int,
    by_axis_q: bool,
    offsets_v: Tensor | None,
    side_v: int,
    by_axis_v: bool,
    maps: Sequence[int],
    padding: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output (B, H, Lq, D), log_sum_exp (B, H, Lq) of `forward_kernel`, and sums.

    Args:
        maps: height, width and number of extra tokens of queries, then those of keys.

    Returns:
        The sums are of weights after dropout by bucket, (B, H, Lq, N) float32; empty without
        offsets_v.
    """
    out = _out_like(q)
    log_sum_exp = q.new_empty(q.shape[:3], dtype=torch.float32)
    sums = references = None
    if offsets_v is not None:
        shape = (*q.shape[:3], _buckets(maps, side_v, by_axis_v))
        sums = q.new_zeros(shape, dtype=torch.float32)
        references = torch.full_like(sums, float("-inf"))
    of_queries, of_keys = _maps(maps)
    below, scale = _dropped(dropout_p)
    terms = sum(offsets is not None for offsets in (offsets_k, offsets_q, offsets_v))
    with torch.cuda.device_of(q):  # Triton launches on the current device
        forward_kernel[_grid(q, of_queries)](
            *_pointer(q), *_pointer(k), *_pointer(v), *_pointer(t_k), offsets_k,
            *_pointer(t_q), offsets_q, sums, references, offsets_v, _additive(padding), seed,
            below, scale, *_pointer(out), log_sum_exp, q.shape[1], *maps,
            **_options(q, maps, of_keys, terms), **_axes("OWN", side_k, by_axis_k),
            **_axes("OTHER", side_q, by_axis_q), **_axes("VALUE", side_v, by_axis_v),
        )  # fmt: skip
    if sums is None or references is None:
        return out, log_sum_exp, q.new_empty(0)
    # Each sum is relative to the largest logit when it was last added to.
    return out, log_sum_exp, sums.mul_((references - log_sum_exp[..., None]).exp2_().mul_(scale))


@torch.library.custom_op("rpe_attention::fused_backward", mutates_args=())
def _backward(
    d_out: Tensor,
    d_sums: Tensor | None,
    out: Tensor,
    log_sum_exp: Tensor,
    sums: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    t_k: Tensor | None,
    offsets_k: Tensor | None,
    side_k: int,
    by_axis_k: bool,
    t_q: Tensor | None,
    offsets_q: Tensor | None,
    side_q: int,
    by_axis_q: bool,
    offsets_v: Tensor | None,
    side_v: int,
    by_axis_v: bool,
    maps: Sequence[int],
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
    delta = (out.float() * d_out).sum(-1)
    if d_sums is not None:
        delta = delta + (sums * d_sums).sum(-1)
    delta = delta.contiguous().div_(scale)
    of_queries, of_keys = _maps(maps)
    terms = sum(table is not None for table in (t_k, t_q, d_sums))
    axes_k, axes_q = (side_k, by_axis_k), (side_q, by_axis_q)
    by_queries, by_keys = (t_k, offsets_k, axes_k), (t_q, offsets_q, axes_q)
    outputs = (*_pointer(dq), *_pointer(dt_k)), (*_pointer(dk), *_pointer(dv), *_pointer(dt_q))
    launches = (
        (backward_queries_kernel, of_queries, of_keys, by_queries, by_keys, outputs[0]),
        (backward_keys_kernel, of_keys, of_queries, by_keys, by_queries, outputs[1]),
    )
    additive = _additive(padding)
    with torch.cuda.device_of(q):
        for kernel, owned, others, of_tile, of_others, gradients in launches:
            kernel[_grid(q, owned)](
                *_pointer(q), *_pointer(k), *_pointer(v), *_pointer(of_tile[0]), of_tile[1],
                *_pointer(of_others[0]), of_others[1], *_pointer(d_sums), offsets_v, additive, seed,
                below, scale, *_pointer(d_out), log_sum_exp, delta, *gradients, q.shape[1], *maps,
                **_options(q, maps, others, terms), **_axes("OWN", *of_tile[2]),
                **_axes("OTHER", *of_others[2]), **_axes("VALUE", side_v, by_axis_v),
            )  # fmt: skip
    dt_k, dt_q = (
        q.new_empty(0) if t is None or dt is None else dt.to(t.dtype)
        for t, dt in ((t_k, dt_k), (t_q, dt_q))
    )
    return dq, dk, dv, dt_k, dt_q


@_forward.register_fake
def _(q, k, v, t_k, offsets_k, side_k, by_axis_k, t_q, offsets_q, side_q, by_axis_q, offsets_v,
      side_v, by_axis_v, maps, *others):  # fmt: skip
    sums = q.new_empty(0)
    if offsets_v is not None:
        shape = (*q.shape[:3], _buckets(maps, side_v, by_axis_v))
        sums = q.new_empty(shape, dtype=torch.float32)
    return _out_like(q), q.new_empty(q.shape[:3], dtype=torch.float32), sums


@_backward.register_fake
def _(d_out, d_sums, out, log_sum_exp, sums, q, k, v, t_k, offsets_k, side_k, by_axis_k, t_q,
      *others):  # fmt: skip
    tables = (q.new_empty(0) if t is None else t.new_empty(t.shape) for t in (t_k, t_q))
    return *(torch.empty_like(x) for x in (q, k, v)), *tables


NUMBER_OF_INPUTS, T_K, T_Q, OFFSETS_V = 18, 3, 7, 11  # of `_forward`, and where they are


def _save(ctx, inputs, output):
    # Tensors must be saved with save_for_backward, the other arguments must not.
    ctx.set_materialize_grads(False)
    tensors = [x for x in (*inputs, *output) if isinstance(x, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.others = [None if isinstance(x, Tensor) else (x,) for x in (*inputs, *output)]


def _differentiate(ctx, d_out, _, d_sums):
    saved = iter(ctx.saved_tensors)
    *inputs, out, log_sum_exp, sums = (next(saved) if x is None else x[0] for x in ctx.others)
    if d_out is None:
        d_out = torch.zeros_like(out)
    if inputs[OFFSETS_V] is None:
        d_sums = None
    ops = torch.ops.rpe_attention
    dq, dk, dv, dt_k, dt_q = ops.fused_backward(d_out, d_sums, out, log_sum_exp, sums, *inputs)
    gradients = [dq, dk, dv, *[None] * (NUMBER_OF_INPUTS - 3)]
    for place, gradient in ((T_K, dt_k), (T_Q, dt_q)):
        if inputs[place] is not None:
            gradients[place] = gradient
    return tuple(gradients)


_forward.register_autograd(_differentiate, setup_context=_save)
