"""Linear layers that use all of an AMD CPU."""

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@functools.cache
def convolution_is_faster() -> bool:
    """Whether float32 products are better left to oneDNN, which does PyTorch's convolutions.

    PyTorch gives them to MKL, which uses AVX-512 on Intel's CPUs alone: on AMD's oneDNN took half
    the time, forward and backward.
    """
    info = Path("/proc/cpuinfo")
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()
        and info.exists()
        and "AuthenticAMD" in info.read_text()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear: (..., in), (out, in), (out,) -> (..., out), up to rounding."""
    if (
        x.device.type != "cpu"
        or x.dtype != torch.float32
        or weight.dtype != torch.float32
        or x.numel() == 0
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()  # also while it is exported
        or not convolution_is_faster()
    ):
        return F.linear(x, weight, bias)
    # One row of pixels, channels last: a view, as is its way back.
    pixels = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(pixels, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(x, self.weight, self.bias)
