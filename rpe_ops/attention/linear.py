"""Products that are faster on some CPUs than PyTorch's, and the same elsewhere."""

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor


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
