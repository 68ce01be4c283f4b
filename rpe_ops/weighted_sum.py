"""RPE on values: a weighted sum of table rows, one row for each key."""

import torch
from torch import Tensor

from .functions import is_transformed, rpe_index, rpe_index_sum


def rpe_weighted_sum(x: Tensor, index: Tensor, table: Tensor) -> Tensor:
    """Compute out[b, h, i, :] = sum over j of x[b, h, i, j] * table[h, index[i, j], :].

    The weights are summed into buckets first. Then it is one matrix product, without a tensor of
    Lq * Lk * D elements.

    Args:
        x: (B, H, Lq, Lk), attention weights.
        index: (Lq, Lk), int32 or int64, bucket ids in [0, N).
        table: (H or 1, N, D).

    Returns:
        (B, H, Lq, D).
    """
    # The compiler frees memory as `_WeightedSum` does, which has no rules for torch.func.
    if torch.compiler.is_compiling() or is_transformed():
        return rpe_index_sum(x, index, table.shape[1]) @ table
    return _WeightedSum.apply(x, index, table)


class _WeightedSum(torch.autograd.Function):
    """The product of sums and table, which frees the sums before it makes their gradient.

    So one tensor of (B, H, Lq, N) exists at a time, not two. A second backward pass through the
    same graph, or one that is differentiated itself, recomputes the sums.
    """

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(x, index, table)
        ctx.sums = rpe_index_sum(x, index, table.shape[1])
        return ctx.sums @ table

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        x, index, table = ctx.saved_tensors
        sums, ctx.sums = ctx.sums, None
        grad_x = grad_table = None
        # Under autocast the product has grad's dtype, which may differ from x's and table's.
        if ctx.needs_input_grad[2]:
            if sums is None or torch.is_grad_enabled():
                sums = rpe_index_sum(x, index, table.shape[1])
            head = "h" if table.shape[0] > 1 else ""
            grad_table = torch.einsum(f"bhin,bhid->{head}nd", sums.to(grad.dtype), grad)
            grad_table = grad_table.view_as(table).to(table.dtype)
        del sums
        if ctx.needs_input_grad[0]:
            grad_x = rpe_index(grad @ table.mT.to(grad.dtype), index).to(x.dtype)
        return grad_x, None, grad_table
