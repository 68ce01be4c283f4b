"""Attention that looks RPE up inside its Triton kernels: memory linear in the number of tokens L.

The other backends add a term of (B, H, Lq, Lk) to the logits. Here one kernel goes over the keys in
tiles, as flash attention does, and reads the RPE of each pair of a tile from the tables that `irpe`
would have expanded; for RPE on values it sums the weights by bucket. It needs a GPU; for tests, the
same kernels run on the CPU, very slowly, with TRITON_INTERPRET=1 set before Python starts.
"""

import re
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rpe_ops.functions import is_exporting, is_transformed
from rpe_ops.irpe import (
    METHOD,
    MapPair,
    RPEConfig,
    RPESettings,
    bucket_cache,
    offset_buckets,
)

from .call import AttentionCall, has_hooks

try:
    from . import fused_ops  # registers the operators
    from .kernels import tiles
except ImportError as error:
    NO_TRITON: str | None = f"Triton cannot be imported ({error})"
else:
    NO_TRITON = None

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_HEAD_DIM = 128
OLDEST_TRITON = (3, 3)  # before it, kernels do not take strides as tuples
INT32_MAX = 2**31 - 1


class Buckets(NamedTuple):
    """The buckets of one RPE.

    Attributes:
        offsets: (2 * height - 1, 2 * width - 1) int32 of the keys' map, bucket of each offset, from
            `irpe.offset_buckets`.
        side: buckets of an axis.
        by_axis: whether they are (bucket of the row offset) * side + (bucket of the column offset),
            as those of `product`.
    """

    offsets: Tensor
    side: int
    by_axis: bool


class RPETerm(NamedTuple):
    """A term of the logits, not yet looked up: table[..., i, bucket of the offset of i and j].

    Attributes:
        table: (B or 1, H or 1, L, N), float32, bfloat16 or float16, any strides. Pairs with an
            extra token have the bucket after those of the map.
    """

    table: Tensor
    buckets: Buckets


def rpe_term(rpe: nn.Module, x: Tensor, maps: MapPair) -> RPETerm:
    """Return what `rpe` would look up of x: (B, H, L, D).

    The two tables of `cross` become one of all pairs of row and column, as `product` has it:
    [row * side + column].
    """
    if not _is_cross(rpe):
        return RPETerm(rpe.table(x), buckets_of(rpe, maps, x.device))  # type: ignore[operator]
    side = settings_of(rpe).side  # type: ignore[union-attr]
    both = [part.table(x) for part in (rpe.rp_rows, rpe.rp_cols)]  # type: ignore[operator,union-attr]
    rows, cols = (table[..., :side] for table in both)
    table = (rows[..., :, None] + cols[..., None, :]).flatten(-2)
    if both[0].shape[-1] > side:  # the bucket of extra tokens
        table = torch.cat([table, both[0][..., side:] + both[1][..., side:]], dim=-1)
    return RPETerm(table, buckets_of(rpe, maps, x.device))


def buckets_of(rpe: nn.Module, maps: MapPair, device: torch.device) -> Buckets:
    """Return the buckets of an RPE; those of `cross` are the ones of `product`."""
    settings = settings_of(rpe)
    assert settings is not None  # `why_not` refuses modules without
    if _is_cross(rpe):
        settings = replace(settings, method=METHOD.PRODUCT)
    height, width, _ = maps.keys
    if torch.compiler.is_compiling():  # the cache has a lock, at which graphs break
        offsets = offset_buckets(settings, height, width).to(device)
    else:
        key = ("offsets", settings.method, settings.ratio, height, width, device)
        offsets = bucket_cache.get(key, lambda: offset_buckets(settings, height, width).to(device))
    return Buckets(offsets, settings.side, settings.method == METHOD.PRODUCT)


def value_term(rpe: nn.Module, sums: Tensor, maps: MapPair) -> Tensor:
    """Return what RPE on values adds to the output, (B, H, Lq, D).

    Args:
        sums: (B, H, Lq, N) of weights by bucket, with a bucket for extra tokens if there are any.
    """

    def product(part: nn.Module, sums: Tensor) -> Tensor:
        table = part.lookup_table_weight
        assert isinstance(table, Tensor)
        return sums @ table[:, : sums.shape[-1]].to(sums.dtype)

    if not _is_cross(rpe):
        return product(rpe, sums)
    side = settings_of(rpe).side  # type: ignore[union-attr]
    of_map, of_extra = sums.tensor_split([side * side], dim=-1)
    of_map = of_map.unflatten(-1, (side, side))
    rows, cols = (torch.cat([of_map.sum(axis), of_extra], dim=-1) for axis in (-1, -2))
    return product(rpe.rp_rows, rows) + product(rpe.rp_cols, cols)  # type: ignore[arg-type]


# ---- where it is supported ----


def triton_version() -> str:
    """Return Triton's version, or "none"."""
    return "none" if NO_TRITON is not None else fused_ops.triton.__version__


def why_not_device(device: torch.device) -> str | None:
    """Return why the kernels cannot run on `device`; None if they can."""
    if is_exporting():
        return "graphs for other runtimes have no Triton kernels"
    if NO_TRITON is not None:
        return NO_TRITON
    version = triton_version()
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TRITON:
        return f"Triton {version} is older than {'.'.join(map(str, OLDEST_TRITON))}"
    if device.type == "cpu" and tiles.INTERPRETED.value:
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
    if config is None or not any((config.rpe_q, config.rpe_k, config.rpe_v)):
        return "there are no relative positions"
    return None


def why_not(call: AttentionCall) -> str | None:
    """Return why the call is not supported; None if it is."""
    for rpe, table in ((call.rpe_q, "table"), (call.rpe_k, "table"), (call.rpe_v, "settings")):
        for part in (rpe.rp_rows, rpe.rp_cols) if _is_cross(rpe) else (rpe,):  # type: ignore[union-attr]
            if part is not None and not (hasattr(part, table) and hasattr(part, "settings")):
                return f"it does not know {type(part).__name__}"
            if isinstance(part, nn.Module) and has_hooks(part):
                return f"it does not call {type(part).__name__}, which has hooks"
    batch, heads, len_q, head_dim = call.q.shape
    settings = [settings_of(rpe) for rpe in (call.rpe_q, call.rpe_k, call.rpe_v)]
    reason = why_not_config(RPEConfig(*settings), head_dim)
    if reason is not None:
        return reason
    assert call.maps is not None  # as there are relative positions
    if call.maps.queries.skip + call.maps.keys.skip > 0 and any(
        each is not None and each.skip == 0 for each in settings
    ):
        return "there are extra tokens, but RPE was configured with skip=0"
    if is_transformed():
        return "it has no rules for torch.func and forward-mode differentiation"
    if call.need_weights:
        return "it never has the weights, which are asked for (need_weights)"
    if call.dropout_p >= 1:
        return f"a dropout of {call.dropout_p} leaves no weights"
    if call.attn_mask is not None:
        return "attn_mask is not supported"
    if call.key_padding_mask is not None and call.key_padding_mask.dtype != torch.bool:
        return f"key_padding_mask is {call.key_padding_mask.dtype}, not bool"
    if call.q.dtype not in DTYPES or not (call.q.dtype == call.k.dtype == call.v.dtype):
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        return (
            f"queries are {call.q.dtype}, keys {call.k.dtype}, values {call.v.dtype}; all must be "
            f"one of {names}"
        )
    if call.v.shape != call.k.shape:
        return f"values have {call.v.shape[-1]} features, keys {head_dim}"
    len_k = call.k.shape[2]
    if call.q.numel() == 0 or call.k.numel() == 0 or batch * heads * max(len_q, len_k) > INT32_MAX:
        return f"{batch} x {heads} x {len_q} queries and {len_k} keys are none or too many"
    # A table's gradient is indexed in 32 bits.
    buckets = max((each.side**2 + 1 for each in settings if each is not None), default=0)
    if max(len_q, len_k) * buckets > INT32_MAX:
        return f"{max(len_q, len_k)} tokens with {buckets} buckets are too many"
    return why_not_device(call.q.device)


def _is_cross(rpe: nn.Module | None) -> bool:
    # By what it has, as for all modules: of a copied irpe.py they are classes of their own.
    return hasattr(rpe, "rp_rows") and hasattr(rpe, "rp_cols")


def settings_of(rpe: nn.Module | None) -> RPESettings | None:
    """Return the settings of an RPE, of `cross` those of its rows; None where there are none."""
    return getattr(rpe.rp_rows if _is_cross(rpe) else rpe, "settings", None)  # type: ignore[union-attr]


# ---- attention ----


def attend(call: AttentionCall) -> tuple[Tensor, None]:
    """Compute the output (B, H, Lq, D)."""
    assert call.maps is not None
    term_k = term_q = buckets_v = None
    if call.rpe_k is not None:
        term_k = rpe_term(call.rpe_k, call.q, call.maps)
    if call.rpe_q is not None:
        term_q = rpe_term(call.rpe_q, call.k * call.scale, call.maps)
    if call.rpe_v is not None:
        buckets_v = buckets_of(call.rpe_v, call.maps, call.q.device)
    out, sums = fused_attention(
        call.q, call.k, call.v, call.maps, term_k, term_q, buckets_v,
        call.key_padding_mask, call.dropout_p,
    )  # fmt: skip
    if call.rpe_v is not None:
        out = out + value_term(call.rpe_v, sums.to(out.dtype), call.maps)
    return out, None


def fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    maps: MapPair,
    term_k: RPETerm | None = None,
    term_q: RPETerm | None = None,
    buckets_v: Buckets | None = None,
    key_padding_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute weights = dropout(softmax(q k^T + term_k + term_q^T)), weights v and their sums.

    It is differentiable once.

    Args:
        q: (B, H, Lq, D), float32, bfloat16 or float16, D at most 128, scaled.
        k, v: (B, H, Lk, D).
        maps: of queries and keys.
        term_k: RPE on keys, looked up by queries.
        term_q: RPE on queries, looked up by keys.
        buckets_v: sum the weights by these.
        key_padding_mask: (B, Lk) bool, True where a key is padding. If all keys of an image are,
            its result is 0.
        dropout_p: probability with which a weight is dropped, below 1, rounded to 16 bits.
        seed: (1,) int64 on the device, determines dropout; None draws one from the device's
            default generator.

    Returns:
        (B, H, Lq, D), dtype of q, and sums (B, H, Lq, N) float32 of the weights of each bucket, the
        last one of extra tokens if there are any; empty without buckets_v. Gradients of q, k, v and
        both tables are bitwise reproducible.
    """
    if dropout_p > 0 and seed is None:
        seed = torch.randint(2**62, (1,), device=q.device)

    def parts(term: RPETerm | None, x: Tensor) -> tuple[Tensor | None, Tensor | None, int, bool]:
        if term is None:
            return None, None, 1, False
        table = term.table.expand(*x.shape[:3], -1)
        if x.shape[2] * table.stride(2) + table.shape[3] * table.stride(3) > INT32_MAX:
            table = table.contiguous()  # kernels index within an image and head in 32 bits
        return table, *term.buckets

    padding = None if key_padding_mask is None else key_padding_mask.contiguous()
    seed = seed if dropout_p > 0 else None
    on_values = (None, 1, False) if buckets_v is None else buckets_v
    out, _, sums = torch.ops.rpe_attention.fused_forward(
        q, k, v, *parts(term_k, q), *parts(term_q, k), *on_values,
        [*maps.queries, *maps.keys], padding, seed, dropout_p,
    )  # fmt: skip
    return out, sums
