"""The two operators in plain PyTorch: what the kernels must equal, and what runs without them."""

import torch
from torch import Tensor


def rpe_index_ref(table: Tensor, index: Tensor) -> Tensor:
    """`rpe_index` by torch.gather; table (B, H, Lq, N), index (Lq, Lk) -> (B, H, Lq, Lk)."""
    return torch.gather(table, 3, _expand(index, table))


def rpe_index_sum_ref(x: Tensor, index: Tensor, num_buckets: int) -> Tensor:
    """`rpe_index_sum` by scatter_add; x (B, H, Lq, Lk), index (Lq, Lk) -> (B, H, Lq, N).

    float16 and bfloat16 are summed in float32, and rounded once.
    """
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    sums = wide.new_zeros(*x.shape[:3], num_buckets)
    return sums.scatter_add(3, _expand(index, x), wide).to(x.dtype)


def _expand(index: Tensor, like: Tensor) -> Tensor:
    """One (Lq, Lk) index seen as (B, H, Lq, Lk), without a copy; gather wants int64."""
    return index.long().expand(*like.shape[:2], *index.shape)
