"""Linear layers and dropout that are faster on CPUs than PyTorch's, and the same elsewhere."""

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ---- linear layers ----


@functools.cache
def convolution_is_faster() -> bool:
    """Whether float32 products are faster as convolutions, which oneDNN computes.

    PyTorch computes linear layers with MKL, which uses AVX-512 on Intel's CPUs alone: on AMD's,
    oneDNN takes half the time, forward and backward.
    """
    info = Path("/proc/cpuinfo")
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()
        and info.exists()
        and "AuthenticAMD" in info.read_text()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute F.linear, up to rounding.

    Args:
        x: (..., in_features).
        weight: (out_features, in_features).
        bias: (out_features,).

    Returns:
        (..., out_features).
    """
    if (
        x.device.type != "cpu"
        or x.dtype != torch.float32
        or weight.dtype != torch.float32
        or x.numel() == 0
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()  # also true while a graph is exported
        or not convolution_is_faster()
    ):
        return F.linear(x, weight, bias)
    # A 1x1 convolution over an image of one row of pixels. Channels last makes the reshapes views.
    pixels = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(pixels, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """An nn.Linear that is computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(x, self.weight, self.bias)


# ---- dropout ----

STEPS = 2**16  # a drop probability is rounded to a multiple of 1 / STEPS


def random_mask(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """Draw a dropout mask on the CPU.

    Most of dropout's time on a CPU is spent in the random generator. PyTorch calls it once an
    element; here 64 random bits decide on four elements, which is why p is rounded.

    Returns:
        Bool of `shape`, True where an element is kept, and the probability of being kept.
    """
    dropped = round(p * STEPS)
    count = shape.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    numbers = bits.view(torch.int16)[:count].view(shape)  # uniform in [-STEPS / 2, STEPS / 2)
    return numbers >= dropped - STEPS // 2, 1 - dropped / STEPS


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
