"""Attention that looks relative positions up inside its kernels: memory linear in L.

The usual way adds a term of (B, H, L, L) to the logits. Here one kernel goes over the keys in
tiles, as flash attention does, and reads for each pair of a tile what `irpe` would have looked up
for it. Needs Triton, and thereby a GPU; with TRITON_INTERPRET=1 set before Python starts the same
kernels run, very slowly, on the CPU. Where it cannot be used, `why_not_fused` says why.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.rpe_attention.irpe import (
    METHOD,
    BiasRPE,
    ContextualRPE,
    CrossRPE,
    bucket_cache,
    offset_buckets,
)
from rpe_ops import is_exporting

try:
    from . import fused_forward, fused_ops  # noqa: F401 (fused_ops registers the operators)
except ImportError as error:
    NO_TRITON = f"Triton cannot be imported ({error})"
else:
    NO_TRITON = None

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_HEAD_DIM = 128
MAX_SIDE = 32  # buckets of an axis, whose gradients are summed in registers
LONGEST = 2**31 - 1


class RPETerm(NamedTuple):
    """A term of the logits: table[..., i, offsets[offset of i and j]].

    Attributes:
        table: (B or 1, H or 1, L, N), float32, bfloat16 or float16, any strides.
        offsets: (2 * height - 1, 2 * width - 1) int32, bucket of each offset, as
            `irpe.offset_buckets` makes it; the buckets of offsets with the same rows must be in
            one segment [n * side, (n + 1) * side), and n must not fall as the row offset grows.
        side: buckets in a segment.
    """

    table: Tensor
    offsets: Tensor
    side: int


def rpe_term(rpe: nn.Module, x: Tensor, height: int, width: int) -> RPETerm:
    """What `rpe(x, height, width)` would look up; x: (B, H, L, D).

    The two tables of `cross` become one of all pairs of row and column: [row * side + column].
    """
    if isinstance(rpe, CrossRPE):
        settings = rpe.rp_rows.settings
        rows, cols = (part.table(x)[..., : settings.side] for part in (rpe.rp_rows, rpe.rp_cols))
        table = (rows[..., :, None] + cols[..., None, :]).flatten(-2)
        method = METHOD.PRODUCT
    else:
        settings, table = rpe.settings, rpe.table(x)
        method = settings.method
    settings = replace(settings, method=method)
    key = ("offsets", method, settings.ratio, height, width, x.device)
    offsets = bucket_cache.get(key, lambda: offset_buckets(settings, height, width).to(x.device))
    return RPETerm(table, offsets, settings.side)


# ---- where it can be used ----


def why_not_device(device: torch.device) -> str | None:
    """Why fused attention cannot run on `device`; None if it can."""
    if is_exporting():
        return "graphs for other runtimes have no Triton kernels"
    if NO_TRITON is not None:
        return NO_TRITON
    if device.type == "cpu" and fused_forward.INTERPRETED.value:
        return None
    if device.type != "cuda":
        return f"it runs on CUDA devices (and on the CPU with TRITON_INTERPRET=1), not on {device}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
    return None


def why_not_encodings(
    rpe_q: nn.Module | None, rpe_k: nn.Module | None, rpe_v: nn.Module | None, head_dim: int
) -> str | None:
    """Why fused attention cannot encode these relative positions; None if it can."""
    if head_dim > MAX_HEAD_DIM:
        return f"heads have {head_dim} features, more than {MAX_HEAD_DIM}"
    if rpe_v is not None:
        return "relative positions on values need the weights"
    encodings = [rpe for rpe in (rpe_q, rpe_k) if rpe is not None]
    if not encodings:
        return "there are no relative positions on queries or keys"
    for rpe in encodings:
        parts = (rpe.rp_rows, rpe.rp_cols) if isinstance(rpe, CrossRPE) else (rpe,)
        for part in parts:
            if not isinstance(part, ContextualRPE | BiasRPE):
                return f"it does not know {type(part).__name__}"
            if part.settings.side > MAX_SIDE:
                return f"an axis has {part.settings.side} buckets, more than {MAX_SIDE}"
    return None


def why_not_fused(
    q: Tensor,
    k: Tensor,
    hw: tuple[int, int] | None,
    rpe_q: nn.Module | None = None,
    rpe_k: nn.Module | None = None,
    rpe_v: nn.Module | None = None,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    need_weights: bool = False,
    dropout_p: float = 0.0,
) -> str | None:
    """Why fused attention cannot be used for this call; None if it can.

    Args:
        q, k: (B, H, Lq, D), (B, H, Lk, D); values are taken to be like k.
        hw: height and width of the map; of no interest without relative positions.
        rpe_q, rpe_k, rpe_v: modules made by `build_rpe`.
        key_padding_mask, attn_mask, need_weights, dropout_p: see
            `rpe_multi_head_attention_forward`.
    """
    batch, heads, length, head_dim = q.shape
    reason = why_not_encodings(rpe_q, rpe_k, rpe_v, head_dim)
    if reason is not None:
        return reason
    if need_weights:
        return "it never has the weights, which are asked for (need_weights)"
    if dropout_p >= 1:
        return f"a dropout of {dropout_p} leaves no weights"
    if attn_mask is not None:
        return "attn_mask is not supported"
    if key_padding_mask is not None and key_padding_mask.dtype != torch.bool:
        return f"key_padding_mask is {key_padding_mask.dtype}, not bool"
    if q.dtype not in DTYPES or k.dtype != q.dtype:
        return f"queries are {q.dtype}, keys {k.dtype}; both must be one of {_names(DTYPES)}"
    if k.shape != q.shape or length != math.prod(hw):
        return (
            f"{length} queries and {k.shape[2]} keys are not a map of {hw[0]} x {hw[1]}: "
            "extra tokens are not supported"
        )
    if q.numel() == 0 or batch * heads * length > LONGEST:
        return f"the number of queries, {batch} x {heads} x {length}, is 0 or too large"
    return why_not_device(q.device)


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


# ---- attention ----


def fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hw: tuple[int, int],
    term_k: RPETerm | None = None,
    term_q: RPETerm | None = None,
    key_padding_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """dropout(softmax(q k^T + term_k + term_q^T)) v, differentiable once.

    Args:
        q, k, v: (B, H, L, D), float32, bfloat16 or float16, D at most 128; q comes scaled.
        hw: height and width of the map, L = height * width.
        term_k: looked up by queries; [i, j] counts for query i and key j.
        term_q: looked up by keys; [j, i] counts for query i and key j.
        key_padding_mask: (B, L) bool, True where a key is padding. Where all keys are, the
            result is 0.
        dropout_p: probability with which a weight becomes 0, below 1.
        seed: (1,) int64 on the device, which determines dropout; None draws one from the
            device's default generator.

    Returns:
        (B, H, L, D), dtype of q. Gradients go to q, k, v and the tables of both terms; they are
        the same bits each time.
    """
    batch, heads, length, _ = q.shape
    if dropout_p > 0 and seed is None:
        seed = torch.randint(2**62, (1,), device=q.device)

    def parts(term: RPETerm | None) -> tuple[Tensor | None, Tensor | None, int]:
        if term is None:
            return None, None, 1
        table = term.table.expand(batch, heads, length, -1)
        if length * table.stride(2) + table.shape[3] * table.stride(3) > LONGEST:
            table = table.contiguous()  # kernels count in 32 bits within an image and head
        return table, term.offsets, term.side

    padding = None if key_padding_mask is None else key_padding_mask.contiguous()
    seed = seed if dropout_p > 0 else None
    return torch.ops.rpe_attention.fused_forward(
        q, k, v, *parts(term_k), *parts(term_q), *hw, padding, seed, dropout_p
    )[0]
