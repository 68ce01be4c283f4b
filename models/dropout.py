"""Dropout whose random numbers cost a fraction on CPUs."""

import torch
from torch import Tensor, nn

STEPS = 2**16  # probabilities are rounded to so many


def random_mask(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """Which elements stay, on the CPU: bool of `shape`, and the probability to stay.

    PyTorch's generator is asked for 64 random bits, which decide on four elements, where
    PyTorch's dropout asks it for each element. So 1 - p is rounded to a multiple of 2**-16.
    """
    dropped = round(p * STEPS)
    count = shape.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    numbers = bits.view(torch.int16)[:count].view(shape)  # -STEPS / 2 ... STEPS / 2 - 1
    return numbers >= dropped - STEPS // 2, 1 - dropped / STEPS


class _CpuDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        mask, ctx.stay = random_mask(x.shape, p)
        ctx.save_for_backward(mask)
        return (x * mask).div_(ctx.stay)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return grad * mask / ctx.stay, None


class Dropout(nn.Dropout):
    """nn.Dropout, with random numbers made by `random_mask` on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; zeros come with probability p, in training only."""
        # Compiled code has quick random numbers of its own.
        eager_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if not self.training or self.p == 0 or not eager_cpu:
            return super().forward(x)
        return _CpuDropout.apply(x, self.p)
