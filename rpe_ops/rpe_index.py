"""Look up, or sum up, the buckets of relative positions.

Both functions are linear in their first argument, both are differentiable (twice and more),
and each is the backward of the other:

    rpe_index      Y[b, h, i, j] = table[b, h, i, index[i, j]]
    rpe_index_sum  S[b, h, i, n] = sum of x[b, h, i, j] over the j with index[i, j] == n

Neither ever builds a tensor larger than (B, H, Lq, Lk).
"""

import torch
from torch import Tensor


def rpe_index(table: Tensor, index: Tensor) -> Tensor:
    """Pick, for each query and key, the table entry of the bucket they fall into.

    Args:
        table: (B, H, Lq, N), floating point; N buckets for every query.
        index: (Lq, Lk), int64 or int32, bucket ids in [0, N).

    Returns:
        (B, H, Lq, Lk), dtype and device of `table`.

    Raises:
        ValueError: the shapes or the dtype of `index` do not fit.
    """
    _check("rpe_index", table, index)
    if index.shape[0] != table.shape[2]:
        raise ValueError(
            f"rpe_index: index has {index.shape[0]} rows, table has {table.shape[2]} queries"
        )
    return torch.gather(table, 3, _expand(index, table))


def rpe_index_sum(x: Tensor, index: Tensor, num_buckets: int) -> Tensor:
    """Sum, for each query, the values of all keys that fall into the same bucket.

    Args:
        x: (B, H, Lq, Lk), floating point.
        index: (Lq, Lk), int64 or int32, bucket ids in [0, num_buckets).
        num_buckets: N.

    Returns:
        (B, H, Lq, N), dtype and device of `x`; zero where a bucket has no key.

    Raises:
        ValueError: the shapes or the dtype of `index` do not fit.
    """
    _check("rpe_index_sum", x, index)
    if index.shape != x.shape[2:]:
        raise ValueError(
            f"rpe_index_sum: index is {tuple(index.shape)}, "
            f"the last two axes of x are {tuple(x.shape[2:])}"
        )
    sums = x.new_zeros(*x.shape[:3], num_buckets)
    return sums.scatter_add(3, _expand(index, x), x)


def _check(name: str, tensor: Tensor, index: Tensor) -> None:
    if tensor.dim() != 4:
        raise ValueError(f"{name}: the first argument must have 4 axes, has {tensor.dim()}")
    if index.dim() != 2 or index.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"{name}: index must be an int64 or int32 matrix, "
            f"is {index.dtype} with {index.dim()} axes"
        )


def _expand(index: Tensor, like: Tensor) -> Tensor:
    """One (Lq, Lk) index seen as (B, H, Lq, Lk), without a copy; gather wants int64."""
    return index.long().expand(*like.shape[:2], *index.shape)
