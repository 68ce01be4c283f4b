"""Image relative position encoding (iRPE), ready to be copied into another project.

    from irpe import get_rpe_config, build_rpe

needs this file and the folder `rpe_ops` beside it, nothing else but PyTorch.

Source: Wu, Peng, Chen, Fu, Chao. "Rethinking and Improving Relative Position Encoding for
Vision Transformer", ICCV 2021 ("the paper").

RPE stands for relative position encoding. The offset of a query and a key, (query row - key row,
query column - key column), is mapped to one of N buckets, and each bucket has its own trainable
parameters. Near offsets have a bucket each, far ones share one (the paper's eq. 18).

Three hops: `bucket_ids` maps pairs to buckets, the modules look up their tables by bucket
(`rpe_ops.rpe_index`), and its gradient is `rpe_ops.rpe_index_sum`.
Shapes: B images, H heads, L tokens, D features of a head, N buckets.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpe_ops.cache import BucketCache
from rpe_ops.functions import check_index, is_exporting, rpe_index
from rpe_ops.weighted_sum import rpe_weighted_sum


class METHOD(IntEnum):
    """How a 2-D offset is mapped to a bucket."""

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
MAX_RATIO = 64  # tells offsets of up to 512 tokens apart, more than any feature map has


# ---- configuration ----


class _Subscripted:
    """Attributes that are read as items, too, as code for the published configurations does."""

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None

    def get(self, name: str, default: Any = None) -> Any:
        """Return the attribute, or `default` where there is none."""
        return getattr(self, name, default)


@dataclass(frozen=True)
class RPESettings(_Subscripted):
    """Settings of one RPE, on queries, on keys or on values; see `get_rpe_config`."""

    method: METHOD
    mode: str  # "contextual" or "bias"
    shared_head: bool
    ratio: float
    skip: int  # number of extra tokens (such as a class token) before the image tokens

    @property
    def alpha(self) -> float:
        """Offsets of up to alpha tokens have a bucket each."""
        return 1 * self.ratio

    @property
    def beta(self) -> float:
        """Largest bucket index of an axis, in either direction."""
        return 2 * self.ratio

    @property
    def gamma(self) -> float:
        """Offsets of gamma tokens or more share the last bucket."""
        return 8 * self.ratio

    @property
    def side(self) -> int:
        """Number of buckets of one axis."""
        return 2 * int(self.beta) + 1

    @cached_property
    def axis_buckets(self) -> tuple[int, ...]:
        """Bucket of each integer distance -far .. far; all beyond have the first or last one's.

        The logarithm of eq. 18 is computed here, once: half way between two buckets its rounding
        decides, and an exported graph could round differently in another runtime.
        """
        far = math.ceil(self.gamma) + 1
        distances = torch.arange(-far, far + 1, device="cpu")
        ids = piecewise_index(distances, self.alpha, self.beta, self.gamma) + int(self.beta)
        return tuple(ids.tolist())

    def __post_init__(self) -> None:
        _ = self.axis_buckets  # computed now, as that is not possible while a graph is exported

    @property
    def is_undirected(self) -> bool:
        """Whether buckets are of the distance, as the paper calls it, and not of each axis."""
        return self.method in (METHOD.EUCLIDEAN, METHOD.QUANT)

    @property
    def num_image_buckets(self) -> int:
        """Number of buckets of image tokens; for `cross`, of each of its two tables."""
        return self.side**2 if self.method == METHOD.PRODUCT else self.side

    @property
    def num_buckets(self) -> int:
        """Number of buckets in the table: one more with extra tokens, which share it."""
        return self.num_image_buckets + (self.skip > 0)


@dataclass(frozen=True)
class RPEConfig(_Subscripted):
    """RPE of an attention layer: settings on queries, keys and values, None where it has no RPE."""

    rpe_q: RPESettings | None
    rpe_k: RPESettings | None
    rpe_v: RPESettings | None


def get_single_rpe_config(
    ratio: float = 1.9,
    method: str | int = "product",
    mode: str = "contextual",
    shared_head: bool = True,
    skip: int = 0,
) -> RPESettings:
    """Return the settings of one RPE.

    Arguments and errors are those of `get_rpe_config`.
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
    if skip < 0:
        raise ValueError(f"skip must not be negative, is {skip}")
    return RPESettings(
        METHOD(method), MODE_NAMES[mode.lower()], bool(shared_head), float(ratio), skip
    )


def get_rpe_config(
    ratio: float = 1.9,
    method: str | int = "product",
    mode: str = "contextual",
    shared_head: bool = True,
    skip: int = 0,
    rpe_on: str = "k",
) -> RPEConfig:
    """Return the RPE configuration of an attention layer, for `build_rpe`.

    Args:
        ratio: scales the number of buckets; for `product` 1.9, 2.0, 2.5, 3.0 give
            7x7, 9x9, 11x11, 13x13.
        method: "euc", "quant", "cross" or "product" (any case), or a METHOD id.
        mode: "ctx" or "contextual" (a product with query, key or attention weights), or "bias"
            (independent of them).
        shared_head: one table for all heads, or one for each.
        skip: number of extra tokens before the image tokens, for example 1 for a class token. If
            height and width are passed to the modules, only whether it is 0 matters.
        rpe_on: any of the letters q, k, v.

    Raises:
        ValueError: an argument is invalid; the message names it.
    """
    settings = get_single_rpe_config(ratio, method, mode, shared_head, skip)
    if set(rpe_on) - set("qkv") or len(set(rpe_on)) != len(rpe_on):
        raise ValueError(f"rpe_on must consist of letters of qkv, each once at most, is {rpe_on!r}")
    if "v" in rpe_on and settings.mode == "bias":
        raise ValueError("mode bias is not defined on values, use mode ctx or an rpe_on without v")
    return RPEConfig(*(settings if letter in rpe_on else None for letter in "qkv"))


# ---- bucket ids ----


def piecewise_index(distance: Tensor, alpha: float, beta: float, gamma: float) -> Tensor:
    """Map distances to indexes: identity up to alpha, logarithmic beyond, at most beta.

    This is the paper's eq. 18, which keeps the sign:

        |x| <= alpha:  round(x)
        otherwise:     sign(x) * min(beta, round(alpha + ln(|x| / alpha) / ln(gamma / alpha)
                                                         * (beta - alpha)))

    Args:
        distance: any shape, whole numbers of any dtype.

    Returns:
        int64, same shape, in [-int(beta), int(beta)].
    """
    # float32, as published: half way between two buckets its rounding decides.
    distance = distance.float()
    # Clamped, because `torch.where` below evaluates both branches and log(0) is -inf.
    magnitude = distance.abs().clamp(min=alpha)
    scaled = alpha + torch.log(magnitude / alpha) / math.log(gamma / alpha) * (beta - alpha)
    far = distance.sign() * scaled.round().clamp(max=beta)
    return torch.where(distance.abs() <= alpha, distance.round(), far).long()


def offset_buckets(settings: RPESettings, height: int, width: int) -> Tensor:
    """Map every offset that a height x width map has to its bucket.

    Returns:
        (2 * height - 1, 2 * width - 1) int32 on the CPU; the bucket of the offset (query row - key
        row, query column - key column) is at [row offset + height - 1, column offset + width - 1].
    """
    axis_buckets = torch.tensor(settings.axis_buckets)
    far = len(axis_buckets) // 2

    def bucket(distance: Tensor) -> Tensor:
        return axis_buckets[distance.clamp(-far, far) + far]

    d_row = torch.arange(1 - height, height)[:, None]
    d_col = torch.arange(1 - width, width)[None, :]
    # The paper's undirected methods use the distance, the directed ones the offset of each axis.
    if settings.is_undirected:
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


class TokenMap(NamedTuple):
    """Tokens of an image: `skip` extra ones (such as a class token), then a map row by row."""

    height: int
    width: int
    skip: int = 0

    @property
    def tokens(self) -> int:
        """The number of all tokens."""
        return self.skip + self.height * self.width


class MapPair(NamedTuple):
    """The map of the queries and the map of the keys, the same one in self-attention.

    Between maps of different size an offset is counted in rows and columns of the keys' map: a
    query is taken to be at the key in which its centre lies. With Hq rows of queries and Hk of keys

        row offset = floor((2 * query row + 1) * Hk / (2 * Hq)) - key row

    and columns likewise. It is query row - key row where both maps have the same size.
    """

    queries: TokenMap
    keys: TokenMap


def bucket_ids(
    settings: RPESettings,
    height: int,
    width: int,
    skip: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Map every pair (query, key) of a height x width map to its bucket.

    Returns:
        (L, L) int32 on `device`, L = skip + height * width, image tokens row by row. All pairs with
        one of the `skip` extra tokens, which come first, have the bucket `num_image_buckets`.
    """
    offsets = offset_buckets(settings, height, width).to(device)
    rows = torch.arange(height, device=device)
    cols = torch.arange(width, device=device)
    d_row = rows[:, None] - rows + height - 1  # (query row, key row)
    d_col = cols[:, None] - cols + width - 1
    return _ids_of_pairs(offsets, d_row, d_col, skip, skip, settings.num_image_buckets)


def pair_bucket_ids(
    settings: RPESettings,
    maps: MapPair,
    by_keys: bool = False,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Map every pair of a query of one map and a key of another to its bucket; see `MapPair`.

    Args:
        by_keys: the keys look up, as for RPE on queries: the offset's sign is the opposite.

    Returns:
        (Lq, Lk) int32 on `device`, or (Lk, Lq) of by_keys. All pairs with an extra token have the
        bucket `num_image_buckets`.
    """
    (q_height, q_width, q_skip), (height, width, k_skip) = maps
    offsets = offset_buckets(settings, height, width).to(device)
    d_row = centres(q_height, height, device)[:, None] - torch.arange(height, device=device)
    d_col = centres(q_width, width, device)[:, None] - torch.arange(width, device=device)
    skip_own, skip_other = q_skip, k_skip
    if by_keys:
        d_row, d_col, skip_own, skip_other = -d_row.T, -d_col.T, k_skip, q_skip
    d_row, d_col = d_row + height - 1, d_col + width - 1
    extra = settings.num_image_buckets
    return _ids_of_pairs(offsets, d_row, d_col, skip_own, skip_other, extra)


def centres(length: int, other: int, device: torch.device | str = "cpu") -> Tensor:
    """Return in which of `other` rows the centre of each of `length` rows of an image lies."""
    return (2 * torch.arange(length, device=device) + 1) * other // (2 * length)


def _ids_of_pairs(
    offsets: Tensor, d_row: Tensor, d_col: Tensor, skip_own: int, skip_other: int, extra: int
) -> Tensor:
    """Look up offsets of rows (own, other) and of columns (own, other) -> (own L, other L)."""
    # Axes: own row, other row, own column, other column.
    ids = offsets[d_row][:, :, d_col]
    own, other = d_row.shape[0] * d_col.shape[0], d_row.shape[1] * d_col.shape[1]
    ids = ids.transpose(1, 2).reshape(own, other)
    skipped = skip_own or skip_other
    return F.pad(ids, (skip_other, 0, skip_own, 0), value=extra) if skipped else ids


bucket_cache = BucketCache(max_bytes=2**29)


def _cached_bucket_ids(
    settings: RPESettings, tokens: int, height: int | None, width: int | None, device: torch.device
) -> Tensor:
    """Return bucket ids (tokens, tokens) on `device`, int32, from the cache if possible.

    Without height and width, the map is taken to be square, after `settings.skip` extra tokens.

    Raises:
        ValueError: the number of tokens does not fit the map.
    """
    if (height is None) != (width is None):
        raise ValueError("give both height and width, or neither")
    if height is None or width is None:
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
            + (" and RPE was configured with skip=0" if skip > 0 else "")
        )
    # Mode, shared_head and settings.skip do not change the ids: layers that differ in them share.
    key = (settings.method, settings.ratio, skip, height, width, device)
    size = settings.num_image_buckets + (skip > 0)
    return _cached(key, size, lambda: bucket_ids(settings, height, width, skip, device))


def _cached_pair_ids(
    settings: RPESettings, maps: MapPair, by_keys: bool, device: torch.device
) -> Tensor:
    """Return `pair_bucket_ids`, from the cache if possible."""
    extra = max(maps.queries.skip, maps.keys.skip)
    if extra > 0 and settings.skip == 0:
        raise ValueError(f"there are {extra} extra tokens, but RPE was configured with skip=0")
    key = (settings.method, settings.ratio, maps, by_keys, device)
    size = settings.num_image_buckets + (extra > 0)
    return _cached(key, size, lambda: pair_bucket_ids(settings, maps, by_keys, device))


def _cached(key: tuple, num_buckets: int, make: Callable[[], Tensor]) -> Tensor:
    """Return bucket ids from the cache if possible; they are checked once, not in each call."""
    if is_exporting() or torch.compiler.is_compiling():  # sizes may be symbols: no keys
        return make()

    def build() -> Tensor:
        ids = make()
        check_index(ids, num_buckets)
        return ids

    return bucket_cache.get(key, build)


# ---- modules ----


class _RPE(nn.Module):
    """Base of the RPE modules: settings, bucket ids, how they print."""

    def __init__(self, settings: RPESettings, num_heads: int):
        super().__init__()
        self.settings = settings
        self.num_heads = num_heads
        self.table_heads = 1 if settings.shared_head else num_heads

    def ids(
        self,
        x: Tensor,
        height: int | None,
        width: int | None,
        maps: MapPair | None = None,
        by_keys: bool = False,
    ) -> Tensor:
        """Return the bucket ids (L, L) for x: (B, H, L, ...); see `build_rpe` for the maps."""
        if maps is not None:
            own = maps.keys if by_keys else maps.queries
            if x.shape[2] != own.tokens:
                raise ValueError(f"there are {x.shape[2]} tokens, the map {tuple(own)} has others")
            return _cached_pair_ids(self.settings, maps, by_keys, x.device)
        return _cached_bucket_ids(self.settings, x.shape[2], height, width, x.device)

    def reset_parameters(self) -> None:
        """Set the table to zero, with which the encoding does nothing; FSDP calls this, too."""
        for table in self.parameters(recurse=False):
            nn.init.zeros_(table)

    def extra_repr(self) -> str:
        s = self.settings
        return (
            f"method={s.method.name}, mode={s.mode}, shared_head={s.shared_head}, "
            f"ratio={s.ratio}, skip={s.skip}, num_buckets={s.num_buckets}"
        )


class ContextualRPE(_RPE):
    """Contextual RPE on keys (called with queries) or on queries (called with keys).

    out[b, h, i, j] = x[b, h, i, :] . table[h, :, bucket(i, j)]
    """

    def __init__(self, settings: RPESettings, head_dim: int, num_heads: int):
        super().__init__(settings, num_heads)
        shape = (self.table_heads, head_dim, settings.num_buckets)
        self.lookup_table_weight = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def table(self, x: Tensor) -> Tensor:
        """Return each token's product with each bucket: x (B, H, L, D) -> (B, H, L, N)."""
        return x @ self.lookup_table_weight

    def forward(
        self,
        x: Tensor,
        height: int | None = None,
        width: int | None = None,
        maps: MapPair | None = None,
        by_keys: bool = False,
    ) -> Tensor:
        """x: (B, H, L, D) -> (B, H, L, L), the last axis of the other tokens."""
        # N products a token, then a lookup: far fewer than one for each of L keys.
        return rpe_index(self.table(x), self.ids(x, height, width, maps, by_keys))


class BiasRPE(_RPE):
    """Bias RPE on keys or queries, which depends on positions only.

    out[0, h, i, j] = table[h, bucket(i, j)]
    """

    def __init__(self, settings: RPESettings, num_heads: int):
        super().__init__(settings, num_heads)
        shape = (self.table_heads, settings.num_buckets)
        self.lookup_table_bias = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def table(self, x: Tensor) -> Tensor:
        """Expand the table to the L of x: (B, H, L, D) -> (1, H or 1, L, N), a view."""
        return self.lookup_table_bias[None, :, None, :].expand(-1, -1, x.shape[2], -1)

    def forward(
        self,
        x: Tensor,
        height: int | None = None,
        width: int | None = None,
        maps: MapPair | None = None,
        by_keys: bool = False,
    ) -> Tensor:
        """x: (B, H, L, D), only its shape is used -> (1, H, L, L)."""
        term = rpe_index(self.table(x), self.ids(x, height, width, maps, by_keys))
        return term.expand(-1, self.num_heads, -1, -1)


class ValueRPE(_RPE):
    """Contextual RPE on values, called with the attention weights after dropout.

    out[b, h, i, :] = sum over j of x[b, h, i, j] * table[h, bucket(i, j), :]
    """

    def __init__(self, settings: RPESettings, head_dim: int, num_heads: int):
        super().__init__(settings, num_heads)
        shape = (self.table_heads, settings.num_buckets, head_dim)
        self.lookup_table_weight = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def forward(
        self,
        x: Tensor,
        height: int | None = None,
        width: int | None = None,
        maps: MapPair | None = None,
        by_keys: bool = False,
    ) -> Tensor:
        """x: (B, H, L, L) -> (B, H, L, D)."""
        return rpe_weighted_sum(
            x, self.ids(x, height, width, maps, by_keys), self.lookup_table_weight
        )


class CrossRPE(nn.Module):
    """The cross method: the sum of an RPE of the row offset and one of the column offset."""

    rp_rows: Any  # both are ContextualRPE, BiasRPE or ValueRPE
    rp_cols: Any

    def __init__(self, rp_rows: nn.Module, rp_cols: nn.Module):
        super().__init__()
        self.rp_rows = rp_rows
        self.rp_cols = rp_cols

    def forward(
        self,
        x: Tensor,
        height: int | None = None,
        width: int | None = None,
        maps: MapPair | None = None,
        by_keys: bool = False,
    ) -> Tensor:
        """Input and output are those of the two modules."""
        where = (height, width, maps, by_keys)
        return self.rp_rows(x, *where) + self.rp_cols(x, *where)


def build_rpe(
    config: RPEConfig | None, head_dim: int, num_heads: int
) -> tuple[nn.Module | None, nn.Module | None, nn.Module | None]:
    """Build the RPE modules of one attention layer, on queries, keys and values.

    In the layer's forward, with q, k of shape (B, H, L, head_dim):

        attn = q @ k.transpose(-2, -1)                          q scaled by head_dim**-0.5
        attn += rpe_k(q)
        attn += rpe_q(k * head_dim**-0.5).transpose(-2, -1)
        out = attn.softmax(-1) @ v  +  rpe_v(attn.softmax(-1))

    If the feature map is not square, pass its `height` and `width` to each module. Without them, L
    must be a square number plus `skip`. Where queries and keys come from maps of their own, pass
    `maps`, a MapPair, instead, and to rpe_q `by_keys=True`, too.

    Returns:
        rpe_q, rpe_k, rpe_v; None where the configuration has no RPE.
    """
    if config is None:
        return None, None, None

    return (
        None if config.rpe_q is None else _build_single(config.rpe_q, head_dim, num_heads),
        None if config.rpe_k is None else _build_single(config.rpe_k, head_dim, num_heads),
        None if config.rpe_v is None else _build_single(config.rpe_v, head_dim, num_heads, True),
    )


def _build_single(
    settings: RPESettings, head_dim: int, num_heads: int, on_values: bool = False
) -> nn.Module:
    if settings.method == METHOD.CROSS:
        rows = replace(settings, method=METHOD.CROSS_ROWS)
        cols = replace(settings, method=METHOD.CROSS_COLS)
        return CrossRPE(
            _build_single(rows, head_dim, num_heads, on_values),
            _build_single(cols, head_dim, num_heads, on_values),
        )
    if on_values:
        return ValueRPE(settings, head_dim, num_heads)
    if settings.mode == "bias":
        return BiasRPE(settings, num_heads)
    return ContextualRPE(settings, head_dim, num_heads)


# ---- names of the published module, for code that was written for it ----


def get_num_buckets(method: int, alpha: float, beta: float, gamma: float) -> int:
    """Return the number of buckets without that of extra tokens; only method and beta matter."""
    side = 2 * int(beta) + 1
    return side**2 if method == METHOD.PRODUCT else side


def get_bucket_ids_2d(
    method: int,
    height: int,
    width: int,
    skip: int,
    alpha: float,
    beta: float,
    gamma: float,
    dtype: torch.dtype = torch.long,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, int]:
    """Return `bucket_ids` of a map after `skip` extra tokens, and the number of buckets.

    Args:
        alpha, beta, gamma: 1, 2 and 8 times the ratio.

    Returns:
        (skip + height * width,) * 2 of `dtype`, and the number with that of extra tokens.

    Raises:
        ValueError: beta or gamma is another multiple of alpha, or the method is CROSS, whose rows
            and columns have ids of their own.
    """
    if (beta, gamma) != (2 * alpha, 8 * alpha):
        raise ValueError(f"beta and gamma must be {2 * alpha} and {8 * alpha}: 2 and 8 times alpha")
    if method == METHOD.CROSS:
        raise ValueError("cross has ids of its rows (CROSS_ROWS) and of its columns (CROSS_COLS)")
    settings = get_single_rpe_config(alpha, method, skip=skip)
    ids = bucket_ids(settings, height, width, skip, device).to(dtype)
    return ids, settings.num_buckets


def iRPE(
    head_dim: int,
    num_heads: int = 8,
    mode: str = "contextual",
    method: int = METHOD.PRODUCT,
    transposed: bool = True,
    num_buckets: int | None = None,
    initializer: Callable[[Tensor], Any] | None = None,
    rpe_config: RPESettings | None = None,
) -> nn.Module:
    """Build one RPE module, for queries and keys (`transposed`) or for values.

    Args:
        num_heads: of the table; 1 if heads share it.
        num_buckets: of the table, with that of extra tokens; None for that of `rpe_config`.
        initializer: is called with the table, which is zero without it.
        rpe_config: has the ratio, from `get_single_rpe_config`.
    """
    if rpe_config is None:
        raise ValueError("rpe_config is missing: get_single_rpe_config() makes one")
    skip = rpe_config.skip
    settings = replace(rpe_config, method=METHOD(method), mode=MODE_NAMES[mode.lower()])
    if num_buckets is not None:
        extra = num_buckets - settings.num_image_buckets
        skip = max(skip, 1) if extra else 0
        if extra not in (0, 1):
            raise ValueError(
                f"num_buckets must be {settings.num_image_buckets}, or one more with extra "
                f"tokens, is {num_buckets}"
            )
    settings = replace(settings, shared_head=num_heads == 1, skip=skip)
    module = _build_single(settings, head_dim, num_heads, on_values=not transposed)
    if initializer is not None:
        for table in module.parameters():
            initializer(table)
    return module


def iRPE_Cross(method: int = METHOD.CROSS, **arguments: Any) -> nn.Module:
    """Build `iRPE(...)` of rows and one of columns, whose results are added."""
    if method != METHOD.CROSS:
        raise ValueError(f"method must be METHOD.CROSS, is {method!r}")
    return CrossRPE(
        iRPE(**arguments, method=METHOD.CROSS_ROWS), iRPE(**arguments, method=METHOD.CROSS_COLS)
    )
