"""Attention that looks RPE up inside its Triton kernels: memory linear in the number of tokens L.

The other backends add a term of (B, H, L, L) to the logits. Here one kernel goes over the keys in
tiles, as flash attention does, and reads the RPE of each pair of a tile from the tables that `irpe`
would have expanded. It needs a GPU; with TRITON_INTERPRET=1 set before Python starts, the same
kernels run on the CPU, very slowly, for tests.
"""

import re
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rpe_ops import is_exporting
from rpe_ops.irpe import (
    METHOD,
    BiasRPE,
    ContextualRPE,
    CrossRPE,
    RPEConfig,
    RPESettings,
    bucket_cache,
    offset_buckets,
)

from .call import AttentionCall

try:
    from . import fused_forward, fused_ops  # noqa: F401 (fused_ops registers the operators)
except ImportError as error:
    NO_TRITON: str | None = f"Triton cannot be imported ({error})"
else:
    NO_TRITON = None

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_HEAD_DIM = 128
OLDEST_TRITON = (3, 3)  # before it, kernels do not take strides as tuples
MAX_SIDE = 32  # buckets of an axis: their gradients are summed in registers
INT32_MAX = 2**31 - 1


class RPETerm(NamedTuple):
    """A term of the logits, not yet looked up: table[..., i, offsets[offset of i and j]].

    Attributes:
        table: (B or 1, H or 1, L, N), float32, bfloat16 or float16, any strides.
        offsets: (2 * height - 1, 2 * width - 1) int32, bucket of each offset, from
            `irpe.offset_buckets`. If N is side * side or more, the buckets must be those of
            `product`, (bucket of the row offset) * side + (bucket of the column offset).
        side: buckets of an axis.
    """

    table: Tensor
    offsets: Tensor
    side: int


def rpe_term(rpe: nn.Module, x: Tensor, height: int, width: int) -> RPETerm:
    """Return what `rpe(x, height, width)` would look up; x: (B, H, L, D).

    The two tables of `cross` become one of all pairs of row and column, as `product` has it:
    [row * side + column].
    """
    if isinstance(rpe, CrossRPE):
        settings = rpe.rp_rows.settings
        rows, cols = (part.table(x)[..., : settings.side] for part in (rpe.rp_rows, rpe.rp_cols))
        table = (rows[..., :, None] + cols[..., None, :]).flatten(-2)
        settings = replace(settings, method=METHOD.PRODUCT)
    else:
        assert isinstance(rpe, ContextualRPE | BiasRPE)  # `why_not` refuses others
        settings, table = rpe.settings, rpe.table(x)
    key = ("offsets", settings.method, settings.ratio, height, width, x.device)
    offsets = bucket_cache.get(key, lambda: offset_buckets(settings, height, width).to(x.device))
    return RPETerm(table, offsets, settings.side)


# ---- where it is supported ----


def triton_version() -> str:
    """Return Triton's version, or "none"."""
    return "none" if NO_TRITON is not None else fused_forward.triton.__version__


def why_not_device(device: torch.device) -> str | None:
    """Return why the kernels cannot run on `device`; None if they can."""
    if is_exporting():
        return "graphs for other runtimes have no Triton kernels"
    if NO_TRITON is not None:
        return NO_TRITON
    version = triton_version()
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TRITON:
        return f"Triton {version} is older than {'.'.join(map(str, OLDEST_TRITON))}"
    if device.type == "cpu" and fused_forward.INTERPRETED.value:
        return None
    if device.type != "cuda":
        return f"it runs on CUDA devices (and on the CPU with TRITON_INTERPRET=1), not on {device}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
    return None


def why_not_config(config: RPEConfig | None, head_dim: int) -> str | None:
    """Return why the kernels do not support this RPE; None if they do."""
    if head_dim > MAX_HEAD_DIM:
        return f"heads have {head_dim} features, more than {MAX_HEAD_DIM}"
    if config is not None and config.rpe_v is not None:
        return "relative positions on values need the weights"
    if config is None or (config.rpe_q is None and config.rpe_k is None):
        return "there are no relative positions on queries or keys"
    for settings in (config.rpe_q, config.rpe_k):
        if settings is not None and settings.side > MAX_SIDE:
            return f"an axis has {settings.side} buckets, more than {MAX_SIDE}"
    return None


def why_not(call: AttentionCall) -> str | None:
    """Return why the call is not supported; None if it is."""
    for rpe in (call.rpe_q, call.rpe_k):
        for part in (rpe.rp_rows, rpe.rp_cols) if isinstance(rpe, CrossRPE) else (rpe,):
            if not isinstance(part, ContextualRPE | BiasRPE | None):
                return f"it does not know {type(part).__name__}"
    batch, heads, length, head_dim = call.q.shape
    settings = (settings_of(rpe) for rpe in (call.rpe_q, call.rpe_k, call.rpe_v))
    reason = why_not_config(RPEConfig(*settings), head_dim)
    if reason is not None:
        return reason
    if call.need_weights:
        return "it never has the weights, which are asked for (need_weights)"
    if call.dropout_p >= 1:
        return f"a dropout of {call.dropout_p} leaves no weights"
    if call.attn_mask is not None:
        return "attn_mask is not supported"
    if call.key_padding_mask is not None and call.key_padding_mask.dtype != torch.bool:
        return f"key_padding_mask is {call.key_padding_mask.dtype}, not bool"
    if call.q.dtype not in DTYPES or call.k.dtype != call.q.dtype:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        return f"queries are {call.q.dtype}, keys {call.k.dtype}; both must be one of {names}"
    assert call.maps is not None  # as there are relative positions
    if call.maps.queries != call.maps.keys or call.maps.keys.skip > 0:
        return "extra tokens and two maps are not supported"
    if call.q.numel() == 0 or batch * heads * length > INT32_MAX:
        return f"the number of queries, {batch} x {heads} x {length}, is 0 or too large"
    if length * MAX_SIDE**2 > INT32_MAX:  # a table's gradient is indexed in 32 bits
        return f"a map of {length} tokens is too large"
    return why_not_device(call.q.device)


def settings_of(rpe: nn.Module | None) -> RPESettings | None:
    """Return the settings of an RPE, of `cross` those of its rows; None where there are none."""
    return getattr(rpe.rp_rows if isinstance(rpe, CrossRPE) else rpe, "settings", None)


# ---- attention ----


def attend(call: AttentionCall) -> tuple[Tensor, None]:
    """Compute the output (B, H, L, D)."""
    assert call.maps is not None
    hw = call.maps.keys[:2]
    term_k = term_q = None
    if call.rpe_k is not None:
        term_k = rpe_term(call.rpe_k, call.q, *hw)
    if call.rpe_q is not None:
        term_q = rpe_term(call.rpe_q, call.k * call.scale, *hw)
    inputs = (call.q, call.k, call.v, hw, term_k, term_q, call.key_padding_mask)
    return fused_attention(*inputs, call.dropout_p), None


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
    """Compute dropout(softmax(q k^T + term_k + term_q^T)) v, differentiable once.

    Args:
        q, k, v: (B, H, L, D), float32, bfloat16 or float16, D at most 128; q scaled.
        hw: height and width of the map, L = height * width.
        term_k: RPE on keys, looked up by queries.
        term_q: RPE on queries, looked up by keys.
        key_padding_mask: (B, L) bool, True where a key is padding. If all keys of an image are,
            its result is 0.
        dropout_p: probability with which a weight is dropped, below 1, rounded to 16 bits.
        seed: (1,) int64 on the device, determines dropout; None draws one from the device's
            default generator.

    Returns:
        (B, H, L, D), dtype of q. Gradients of q, k, v and both tables are bitwise reproducible.
    """
    batch, heads, length, _ = q.shape
    if dropout_p > 0 and seed is None:
        seed = torch.randint(2**62, (1,), device=q.device)

    def parts(term: RPETerm | None) -> tuple[Tensor | None, Tensor | None, int]:
        if term is None:
            return None, None, 1
        table = term.table.expand(batch, heads, length, -1)
        if length * table.stride(2) + table.shape[3] * table.stride(3) > INT32_MAX:
            table = table.contiguous()  # kernels index within an image and head in 32 bits
        return table, term.offsets, term.side

    padding = None if key_padding_mask is None else key_padding_mask.contiguous()
    seed = seed if dropout_p > 0 else None
    return torch.ops.rpe_attention.fused_forward(
        q, k, v, *parts(term_k), *parts(term_q), *hw, padding, seed, dropout_p
    )[0]
