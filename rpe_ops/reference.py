"""The two operators in plain PyTorch: the reference for the kernels, and used without them."""

import torch
from torch import Tensor


def rpe_index_ref(table: Tensor, index: Tensor) -> Tensor:
    """Compute `rpe_index`: table (B, H, Lq, N), index (Lq, Lk) -> (B, H, Lq, Lk)."""
    return torch.gather(table, 3, _expand(index, table))


def rpe_index_sum_ref(x: Tensor, index: Tensor, num_buckets: int) -> Tensor:
    """Compute `rpe_index_sum`: x (B, H, Lq, Lk), index (Lq, Lk) -> (B, H, Lq, N).

    float16 and bfloat16 are summed in float32, and rounded once.
    """
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    sums = wide.new_zeros(*x.shape[:3], num_buckets)
    return sums.scatter_add(3, _expand(index, x), wide).to(x.dtype)


def _expand(index: Tensor, like: Tensor) -> Tensor:
    """Expand an index (Lq, Lk) to a view (B, H, Lq, Lk); gather needs int64."""
    return index.long().expand(*like.shape[:2], *index.shape)
