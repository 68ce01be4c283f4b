"""Image relative position encoding as short loops, written from the formulas of the paper."""

import itertools
import math
from fractions import Fraction

import torch

METHODS = ("euc", "quant", "cross", "product")


def piecewise(x: float, alpha: float, beta: float, gamma: float) -> int:
    """Eq. 18 for one distance, in plain Python (whose round is half to even, as torch's)."""
    if abs(x) <= alpha:
        return round(x)
    y = alpha + math.log(abs(x) / alpha) / math.log(gamma / alpha) * (beta - alpha)
    return int(math.copysign(min(beta, round(y)), x))


def bucket(method: str, ratio: float, dr: int, dc: int) -> int:
    """Return the bucket of one offset; cross has the methods "rows" and "cols"."""

    def index(x):
        return piecewise(x, ratio, 2 * ratio, 8 * ratio)

    b = int(2 * ratio)
    return {
        "euc": lambda: index(round(math.sqrt(dr**2 + dc**2))) + b,
        "quant": lambda: index(dr**2 + dc**2) + b,
        "rows": lambda: index(dr) + b,
        "cols": lambda: index(dc) + b,
        "product": lambda: (index(dr) + b) * (2 * b + 1) + index(dc) + b,
    }[method]()


def loop_ids(method: str, ratio: float, height: int, width: int, skip: int = 0) -> torch.Tensor:
    length = skip + height * width
    b = int(2 * ratio)
    ids = torch.full((length, length), (2 * b + 1) ** (2 if method == "product" else 1))
    for i, j in itertools.product(range(height * width), repeat=2):
        ids[skip + i, skip + j] = bucket(
            method, ratio, i // width - j // width, i % width - j % width
        )
    return ids


def loop_pair_ids(
    method: str, ratio: float, queries: tuple[int, int, int], keys: tuple[int, int, int]
) -> torch.Tensor:
    """Buckets (Lq, Lk) of maps of their own, each (height, width, extra tokens).

    The query is where its centre falls in the keys' map.
    """
    (q_height, q_width, q_skip), (height, width, skip) = queries, keys
    b = int(2 * ratio)
    ids = torch.full(
        (q_skip + q_height * q_width, skip + height * width),
        (2 * b + 1) ** (2 if method == "product" else 1),
    )
    half = Fraction(1, 2)
    for i, j in itertools.product(range(q_height * q_width), range(height * width)):
        row = math.floor((i // q_width + half) / q_height * height)
        col = math.floor((i % q_width + half) / q_width * width)
        ids[q_skip + i, skip + j] = bucket(method, ratio, row - j // width, col - j % width)
    return ids


def negated(method: str, ratio: float, ids: torch.Tensor) -> torch.Tensor:
    """The buckets of the opposite offsets: an axis has them in reverse, distances have no sign."""
    side = 2 * int(2 * ratio) + 1
    if method in ("euc", "quant"):
        return ids
    extra = ids == (side**2 if method == "product" else side)
    if method == "product":
        turned = (side - 1 - ids // side) * side + side - 1 - ids % side
    else:
        turned = side - 1 - ids
    return torch.where(extra, ids, turned)


def loop_attention(q, k, v, modules, method, ratio, maps, scale, mask=None):
    """Output and weights of attention, from the formulas; the modules' tables are float64.

    Args:
        modules: rpe_q, rpe_k, rpe_v or None, contextual or bias.
        maps: (height, width, extra tokens) of queries and of keys.
        mask: (B, Lk), True where a key is padding.
    """
    rpe_q, rpe_k, rpe_v = modules
    heads = q.shape[1]
    pairs = list(itertools.product(range(q.shape[2]), range(k.shape[2])))
    logits = torch.einsum("bhid,bhjd->bhij", q, k) * scale
    ids = {name: loop_pair_ids(name, ratio, *maps) for name in tables(method)}
    for rpe, x, by_keys in ((rpe_k, q, False), (rpe_q, k, True)):
        if rpe is None:
            continue
        for part, name in parts(rpe, method):
            of_pairs = negated(name, ratio, ids[name]) if by_keys else ids[name]
            table = next(part.parameters())
            for h, (i, j) in itertools.product(range(heads), pairs):
                entry = table[h % table.shape[0], ..., of_pairs[i, j]]
                token = x[:, h, j if by_keys else i] * scale
                logits[:, h, i, j] += token @ entry if table.dim() == 3 else entry
    if mask is not None:
        logits = logits.masked_fill(mask[:, None, None], -math.inf)
    weights = logits.exp() / logits.exp().sum(-1, keepdim=True)
    out = torch.einsum("bhij,bhjd->bhid", weights, v)
    if rpe_v is not None:
        for part, name in parts(rpe_v, method):
            table = next(part.parameters())
            for h, (i, j) in itertools.product(range(heads), pairs):
                entry = table[h % table.shape[0], ids[name][i, j]]
                out[:, h, i] += weights[:, h, i, j, None] * entry
    return out, weights


def tables(method: str) -> list[str]:
    return ["rows", "cols"] if method == "cross" else [method]


def randomised(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module.double()


def parts(module, method):
    """Return the module's tables, each with the name that `bucket` knows it by."""
    modules = [module.rp_rows, module.rp_cols] if method == "cross" else [module]
    return zip(modules, tables(method), strict=True)


WRONG_STRINGS = {
    "rpe-0.49-product-ctx-1-k": "ratio must be at least 0.5, or there is one bucket, is 0.49",
    "rpe-0.1-euc-bias-0-q": "ratio must be at least 0.5",
    "rpe-2.0-product-ctx-1": "5 fields",
    "rpe-2.0-product-ctx-1-k-x": "7 fields",
    "rpe": "1 fields",
    "irpe-2.0-product-ctx-1-k": "begin with rpe",
    "rpe-two-product-ctx-1-k": "ratio",
    "rpe-nan-product-ctx-1-k": "ratio",
    "rpe-0-product-ctx-1-k": "ratio",
    "rpe-1e9-product-ctx-1-k": "ratio",
    "rpe-2.0-prod-ctx-1-k": "method",
    "rpe-2.0-product-context-1-k": "mode",
    "rpe-2.0-product-ctx-2-k": "shared_head",
    "rpe-2.0-product-ctx-true-k": "shared_head",
    "rpe-2.0-product-ctx-1-": "rpe_on",
    "rpe-2.0-product-ctx-1-x": "rpe_on",
    "rpe-2.0-product-ctx-1-kk": "rpe_on",
    "rpe-2.0-product-bias-1-kv": "bias",
}


def rpe_term(module, method, on_values, x, i, j, b, h, height, width):
    """Return what a module adds for query i and key j: a number, or a vector on values."""
    if module is None:
        return 0
    total = 0
    for part, name in parts(module, method):
        n = loop_ids(name, 2.0, height, width)[i, j]
        shared = part.settings.shared_head
        row = 0 if shared else h
        if hasattr(part, "lookup_table_bias"):
            total = total + part.lookup_table_bias[row, n]
        elif on_values:
            total = total + part.lookup_table_weight[row, n]
        else:
            total = total + x[b, h, i if x is not None else 0] @ part.lookup_table_weight[row, :, n]
    return total


COMBINATIONS = [
    (mode, rpe_on)
    for mode, places in (
        ("ctx", ("q", "k", "v", "qk", "qv", "kv", "qkv")),
        ("bias", ("q", "k", "qk")),
    )
    for rpe_on in places
]
