"""Linear layers and dropout that are faster on CPUs than PyTorch's, and the block made of them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpe_ops.attention.dropout import random_mask
from rpe_ops.attention.linear import linear

# ---- linear layers ----


class Linear(nn.Linear):
    """An nn.Linear that is computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(x, self.weight, self.bias)


# ---- dropout ----


class _CpuDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        mask, ctx.keep_probability = random_mask(x.shape, p)
        ctx.save_for_backward(mask)
        return (x * mask).div_(ctx.keep_probability)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return grad * mask / ctx.keep_probability, None


class Dropout(nn.Dropout):
    """An nn.Dropout that draws its mask with `random_mask` on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Zero elements with probability p in training; any shape."""
        # Compiled code fuses PyTorch's dropout with its neighbours, with random numbers as cheap.
        eager_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if not self.training or self.p == 0 or not eager_cpu:
            return super().forward(x)
        return _CpuDropout.apply(x, self.p)


# ---- the feed-forward block ----


class FeedForward(nn.Module):
    """Base of both kinds of layers: the feed-forward block, with published checkpoints' names."""

    def __init__(self, d_model: int, dim_feedforward: int, dropout: float):
        super().__init__()
        self.linear1 = Linear(d_model, dim_feedforward)
        self.linear2 = Linear(dim_feedforward, d_model)
        self.dropout = Dropout(dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        """(..., d_model) -> (..., d_model)."""
        rows = x.flatten(0, -2)  # once, or each product would do it, and undo it
        return self.linear2(self.dropout(F.relu(self.linear1(rows)))).view_as(x)
