"""Image relative position encoding as short loops, written from the paper's formulas."""

import itertools
import math

import torch

METHODS = ("euc", "quant", "cross", "product")


def piecewise(x: float, alpha: float, beta: float, gamma: float) -> int:
    """Eq. 18 for one distance, in plain Python (whose round is half to even, as torch's)."""
    if abs(x) <= alpha:
        return round(x)
    y = alpha + math.log(abs(x) / alpha) / math.log(gamma / alpha) * (beta - alpha)
    return int(math.copysign(min(beta, round(y)), x))


def bucket(method: str, ratio: float, dr: int, dc: int) -> int:
    """Bucket of one offset; `method` names a single table (rows and cols for cross)."""

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


def tables(method: str) -> list[str]:
    return ["rows", "cols"] if method == "cross" else [method]


def randomised(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module.double()


def parts(module, method):
    """The module's tables, each with its name in `bucket`."""
    modules = [module.rp_rows, module.rp_cols] if method == "cross" else [module]
    return zip(modules, tables(method), strict=True)


WRONG_STRINGS = {
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
    """One element of what a module encodes: a number, or a vector on values."""
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
