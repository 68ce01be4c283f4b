"""Image relative position encoding (iRPE), ready to be copied into another project.

    from irpe import get_rpe_config, build_rpe

needs this file and the folder `rpe_ops` beside it, nothing else but PyTorch.

Source: Wu, Peng, Chen, Fu, Chao. "Rethinking and Improving Relative Position Encoding for
Vision Transformer", ICCV 2021 ("the paper").

How a pair of positions is encoded: their offset (query row - key row, query column - key
column) falls into one of N buckets, and every bucket has its own trainable parameters. Near
offsets have a bucket each, far ones share (the piecewise index of the paper's eq. 18).
"""

import math
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpe_ops import (
    BucketCache,
    check_index,
    is_exporting,
    rpe_index,
    rpe_weighted_sum,
)


class METHOD(IntEnum):
    """How an offset in two dimensions becomes a bucket."""

    EUCLIDEAN = 0
    QUANT = 1
    PRODUCT = 3
    CROSS = 4
    CROSS_ROWS = 41
    CROSS_COLS = 42


METHOD_NAMES = {
    "euc": METHOD.EUCLIDEAN,
    "quant": METHOD.QUANT,
    "cross": METHOD.CROSS,
    "product": METHOD.PRODUCT,
}
MODE_NAMES = {"bias": "bias", "ctx": "contextual", "contextual": "contextual"}
MAX_RATIO = 64  # tells offsets up to 512 tokens apart, far beyond any feature map


# ---- configuration ----


@dataclass(frozen=True)
class RPESettings:
    """What determines one encoding, on queries, on keys or on values."""

    method: METHOD
    mode: str  # "contextual" or "bias"
    shared_head: bool
    ratio: float
    skip: int  # extra tokens (a class token) before the image tokens

    @property
    def alpha(self) -> float:
        """Offsets up to alpha tokens have a bucket each."""
        return 1 * self.ratio

    @property
    def beta(self) -> float:
        """The largest bucket index of an axis, to either side."""
        return 2 * self.ratio

    @property
    def gamma(self) -> float:
        """From gamma tokens on, all offsets share the last bucket."""
        return 8 * self.ratio

    @property
    def side(self) -> int:
        """Buckets of one axis."""
        return 2 * int(self.beta) + 1

    @cached_property
    def axis_buckets(self) -> tuple[int, ...]:
        """Buckets of the distances -far .. far, whole numbers; all that are farther share the last.

        A graph for another runtime has these numbers, not the logarithm that they come from: it
        decides by its rounding where a distance lies half way between two buckets.
        """
        far = math.ceil(self.gamma) + 1
        distances = torch.arange(-far, far + 1, device="cpu")
        ids = piecewise_index(distances, self.alpha, self.beta, self.gamma) + int(self.beta)
        return tuple(ids.tolist())

    def __post_init__(self) -> None:
        _ = self.axis_buckets  # now: nothing can be computed while a graph is exported

    @property
    def num_image_buckets(self) -> int:
        """Buckets of image token pairs; for `cross` those of each of its two tables."""
        return self.side**2 if self.method == METHOD.PRODUCT else self.side

    @property
    def num_buckets(self) -> int:
        """Rows of the parameter table: one more where extra tokens share a bucket."""
        return self.num_image_buckets + (self.skip > 0)


@dataclass(frozen=True)
class RPEConfig:
    """The encodings of an attention layer; None where there is none."""

    rpe_q: RPESettings | None
    rpe_k: RPESettings | None
    rpe_v: RPESettings | None


def get_rpe_config(
    ratio: float = 1.9,
    method: str | int = "product",
    mode: str = "contextual",
    shared_head: bool = True,
    skip: int = 0,
    rpe_on: str = "k",
) -> RPEConfig:
    """Describe the relative position encoding of an attention layer.

    Args:
        ratio: scales the number of buckets; for `product` 1.9, 2.0, 2.5, 3.0 give
            7x7, 9x9, 11x11, 13x13.
        method: "euc", "quant", "cross" or "product" (any case), or a METHOD id.
        mode: "ctx" / "contextual" (depends on query or key content) or "bias" (does not).
        shared_head: one table for all heads, or one a head.
        skip: number of extra tokens before the image tokens, for example 1 class token. With
            height and width, it counts only whether there are any.
        rpe_on: any of the letters q, k, v.

    Raises:
        ValueError: names the argument that is wrong.
    """
    if not (math.isfinite(ratio) and 0 < ratio <= MAX_RATIO):
        raise ValueError(f"ratio must be above 0 and at most {MAX_RATIO}, is {ratio}")
    if isinstance(method, str):
        if method.lower() not in METHOD_NAMES:
            raise ValueError(f"method must be one of {', '.join(METHOD_NAMES)}, is {method!r}")
        method = METHOD_NAMES[method.lower()]
    elif method not in list(METHOD):
        raise ValueError(f"method must be one of {[int(m) for m in METHOD]}, is {method!r}")
    if mode.lower() not in MODE_NAMES:
        raise ValueError(f"mode must be one of {', '.join(MODE_NAMES)}, is {mode!r}")
    mode = MODE_NAMES[mode.lower()]
    if skip < 0:
        raise ValueError(f"skip must not be negative, is {skip}")
    if set(rpe_on) - set("qkv") or len(set(rpe_on)) != len(rpe_on):
        raise ValueError(f"rpe_on must be made of the letters q, k, v, each once, is {rpe_on!r}")
    if "v" in rpe_on and mode == "bias":
        raise ValueError("mode bias has no encoding on values, use mode ctx or an rpe_on without v")
    settings = RPESettings(METHOD(method), mode, bool(shared_head), float(ratio), skip)
    return RPEConfig(*(settings if letter in rpe_on else None for letter in "qkv"))


# ---- bucket ids ----


def piecewise_index(distance: Tensor, alpha: float, beta: float, gamma: float) -> Tensor:
    """The paper's eq. 18, sign kept: identity up to alpha, logarithmic beyond, at most beta.

    Args:
        distance: any shape, whole numbers of any dtype.

    Returns:
        int64, same shape, in [-int(beta), int(beta)].
    """
    # In float32, whose rounding decides the cases that lie half way between two buckets.
    distance = distance.float()
    magnitude = distance.abs().clamp(min=alpha)
    scaled = alpha + torch.log(magnitude / alpha) / math.log(gamma / alpha) * (beta - alpha)
    far = distance.sign() * scaled.round().clamp(max=beta)
    return torch.where(distance.abs() <= alpha, distance.round(), far).long()


def offset_buckets(settings: RPESettings, height: int, width: int) -> Tensor:
    """Bucket of every offset that a height x width map has.

    Computed on the CPU, so that rounding is the same everywhere.

    Returns:
        (2 * height - 1, 2 * width - 1) int32; the offset (query row - key row, query column -
        key column) stands at [row offset + height - 1, column offset + width - 1].
    """
    of_distance = torch.tensor(settings.axis_buckets)
    far = len(of_distance) // 2

    def bucket(distance: Tensor) -> Tensor:
        return of_distance[distance.clamp(-far, far) + far]

    d_row = torch.arange(1 - height, height)[:, None]
    d_col = torch.arange(1 - width, width)[None, :]
    if settings.method in (METHOD.EUCLIDEAN, METHOD.QUANT):
        distance = d_row**2 + d_col**2
        if settings.method == METHOD.EUCLIDEAN:
            distance = distance.float().sqrt().round().long()
        ids = bucket(distance)
    else:
        row_ids, col_ids = bucket(d_row), bucket(d_col)
        ids = {
            METHOD.PRODUCT: row_ids * settings.side + col_ids,
            METHOD.CROSS_ROWS: row_ids,
            METHOD.CROSS_COLS: col_ids,
        }[settings.method]
    return ids.to(torch.int32).expand(2 * height - 1, 2 * width - 1).contiguous()


def bucket_ids(
    settings: RPESettings,
    height: int,
    width: int,
    skip: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Bucket of every (query, key) pair of a height x width map, row by row.

    Returns:
        (L, L) int32 on `device`, L = skip + height * width; the `skip` extra tokens before the
        image tokens share the bucket `num_image_buckets`.
    """
    offsets = offset_buckets(settings, height, width).to(device)
    rows = torch.arange(height, device=device)
    cols = torch.arange(width, device=device)
    d_row = rows[:, None] - rows + height - 1  # (query row, key row)
    d_col = cols[:, None] - cols + width - 1
    # Axes: query row, key row, query column, key column.
    ids = offsets[d_row][:, :, d_col]
    ids = ids.transpose(1, 2).reshape(height * width, height * width)
    return F.pad(ids, (skip, 0, skip, 0), value=settings.num_image_buckets) if skip else ids


bucket_cache = BucketCache(max_bytes=2**29)


def _cached_bucket_ids(
    settings: RPESettings, tokens: int, height: int | None, width: int | None, device: torch.device
) -> Tensor:
    """(tokens, tokens) bucket ids on `device`.

    Without height and width, what the configuration's `skip` tokens leave must be a square map:
    any number of tokens is that of some square map and extra ones.
    """
    if (height is None) != (width is None):
        raise ValueError("give both height and width, or neither")
    if height is None:
        of_map = tokens - settings.skip
        height = width = math.isqrt(max(of_map, 0))
        if height == 0 or height * width != of_map:
            raise ValueError(
                f"{tokens} tokens are not a square map"
                + f" and skip={settings.skip} extra tokens" * (settings.skip > 0)
                + ": give height and width"
            )
    skip = tokens - height * width
    if skip < 0 or (skip > 0 and settings.skip == 0):
        raise ValueError(
            f"{tokens} tokens are not a {height} x {width} map"
            + (" and the encoding was configured with skip=0" if skip > 0 else "")
        )
    # Neither mode, nor shared heads, nor the skip of the configuration change the ids.
    if is_exporting():
        return bucket_ids(settings, height, width, skip, device)
    key = (settings.method, settings.ratio, skip, height, width, device)

    def build() -> Tensor:
        ids = bucket_ids(settings, height, width, skip, device)
        check_index(ids, settings.num_image_buckets + (skip > 0))  # once, for all uses
        return ids

    return bucket_cache.get(key, build)


# ---- modules ----


class _RPE(nn.Module):
    """What the encodings share: settings, the ids of their input's map, how they print."""

    def __init__(self, settings: RPESettings, num_heads: int):
        super().__init__()
        self.settings = settings
        self.num_heads = num_heads
        self.table_heads = 1 if settings.shared_head else num_heads

    def ids(self, x: Tensor, height: int | None, width: int | None) -> Tensor:
        """(L, L) bucket ids for x: (B, H, L, ...)."""
        return _cached_bucket_ids(self.settings, x.shape[2], height, width, x.device)

    def extra_repr(self) -> str:
        s = self.settings
        return (
            f"method={s.method.name}, mode={s.mode}, shared_head={s.shared_head}, "
            f"ratio={s.ratio}, skip={s.skip}, num_buckets={s.num_buckets}"
        )


class ContextualRPE(_RPE):
    """Encoding on keys (called with queries) or on queries (called with keys).

    out[b, h, i, j] = x[b, h, i, :] . table[h, :, bucket(i, j)]
    """

    def __init__(self, settings: RPESettings, head_dim: int, num_heads: int):
        super().__init__(settings, num_heads)
        shape = (self.table_heads, head_dim, settings.num_buckets)
        self.lookup_table_weight = nn.Parameter(torch.zeros(shape))

    def table(self, x: Tensor) -> Tensor:
        """What each token has for each bucket: x (B, H, L, D) -> (B, H, L, N)."""
        return x @ self.lookup_table_weight

    def forward(self, x: Tensor, height: int | None = None, width: int | None = None) -> Tensor:
        """x: (B, H, L, D) -> (B, H, L, L)."""
        return rpe_index(self.table(x), self.ids(x, height, width))


class BiasRPE(_RPE):
    """Encoding on keys or queries that looks at positions only.

    out[0, h, i, j] = table[h, bucket(i, j)]
    """

    def __init__(self, settings: RPESettings, num_heads: int):
        super().__init__(settings, num_heads)
        shape = (self.table_heads, settings.num_buckets)
        self.lookup_table_bias = nn.Parameter(torch.zeros(shape))

    def table(self, x: Tensor) -> Tensor:
        """x: (B, H, L, D), of which only L counts -> (1, H or 1, L, N), a view."""
        return self.lookup_table_bias[None, :, None, :].expand(-1, -1, x.shape[2], -1)

    def forward(self, x: Tensor, height: int | None = None, width: int | None = None) -> Tensor:
        """x: (B, H, L, D), of which only the shape counts -> (1, H, L, L)."""
        term = rpe_index(self.table(x), self.ids(x, height, width))
        return term.expand(-1, self.num_heads, -1, -1)


class ValueRPE(_RPE):
    """Encoding on values, called with the attention weights after dropout.

    out[b, h, i, :] = sum over j of x[b, h, i, j] * table[h, bucket(i, j), :]
    """

    def __init__(self, settings: RPESettings, head_dim: int, num_heads: int):
        super().__init__(settings, num_heads)
        shape = (self.table_heads, settings.num_buckets, head_dim)
        self.lookup_table_weight = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor, height: int | None = None, width: int | None = None) -> Tensor:
        """x: (B, H, L, L) -> (B, H, L, D)."""
        return rpe_weighted_sum(x, self.ids(x, height, width), self.lookup_table_weight)


class CrossRPE(nn.Module):
    """Sum of an encoding of the row offset and one of the column offset."""

    def __init__(self, rp_rows: nn.Module, rp_cols: nn.Module):
        super().__init__()
        self.rp_rows = rp_rows
        self.rp_cols = rp_cols

    def forward(self, x: Tensor, height: int | None = None, width: int | None = None) -> Tensor:
        """Input and output are those of its two encodings."""
        return self.rp_rows(x, height, width) + self.rp_cols(x, height, width)


def build_rpe(
    config: RPEConfig | None, head_dim: int, num_heads: int
) -> tuple[nn.Module | None, nn.Module | None, nn.Module | None]:
    """The encodings on queries, keys and values of one attention layer, None where absent.

    In the layer's forward, with q, k of shape (B, H, L, head_dim):

        attn = q @ k.transpose(-2, -1)                          q scaled by head_dim**-0.5
        attn += rpe_k(q)
        attn += rpe_q(k * head_dim**-0.5).transpose(-2, -1)
        out = attn.softmax(-1) @ v  +  rpe_v(attn.softmax(-1))

    Pass `height` and `width` of the feature map to each where the map is not square; without them,
    L must be a square number and `skip` more.
    """
    if config is None:
        return None, None, None

    def build(settings: RPESettings | None, on_values: bool) -> nn.Module | None:
        if settings is None:
            return None
        if settings.method == METHOD.CROSS:
            rows = replace(settings, method=METHOD.CROSS_ROWS)
            cols = replace(settings, method=METHOD.CROSS_COLS)
            return CrossRPE(build(rows, on_values), build(cols, on_values))
        if on_values:
            return ValueRPE(settings, head_dim, num_heads)
        if settings.mode == "bias":
            return BiasRPE(settings, num_heads)
        return ContextualRPE(settings, head_dim, num_heads)

    return build(config.rpe_q, False), build(config.rpe_k, False), build(config.rpe_v, True)
