"""A sum of table rows, one for each key: what relative positions add to attention's values."""

import torch
from torch import Tensor

from .functions import rpe_index, rpe_index_sum


def rpe_weighted_sum(x: Tensor, index: Tensor, table: Tensor) -> Tensor:
    """out[b, h, i, :] = sum over j of x[b, h, i, j] * table[h, index[i, j], :].

    The weights are summed into buckets first: then one matrix product is enough, and no tensor
    of Lq * Lk * D elements exists.

    Args:
        x: (B, H, Lq, Lk), the weights.
        index: (Lq, Lk), int32 or int64, bucket ids in [0, N).
        table: (H or 1, N, D).

    Returns:
        (B, H, Lq, D).
    """
    if torch.compiler.is_compiling():  # the compiler plans memory by itself
        return rpe_index_sum(x, index, table.shape[1]) @ table
    return _WeightedSum.apply(x, index, table)


class _WeightedSum(torch.autograd.Function):
    """The sums, (B, H, Lq, N), are let go before the gradient of the sums is made.

    So there is one tensor of that size at a time, not two. A second backward pass through the
    same graph, or one that is itself differentiated, makes the sums anew.
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
        # Under autocast the product was made in grad's dtype, whatever those of x and table.
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
