"""Residual blocks of torchvision with frozen batch norm folded into the convolutions."""

import weakref
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from rpe_ops import is_exporting


class Folded(NamedTuple):
    """A frozen batch norm as constants of the convolution before it.

    Attributes:
        scale: (C', 1, 1, 1).
        shift: (C',).
        weight: the convolution's, scaled, (C', C, h, w); None if it is trained.
    """

    scale: Tensor
    shift: Tensor
    weight: Tensor | None


class _Known(NamedTuple):
    """What was folded before, and what shows that a tensor it was made of has changed since."""

    folded: Folded
    state: tuple
    memory: tuple[torch.UntypedStorage, ...]  # kept, so that no other tensor gets it


# By convolution. Not attributes of it: copies and pickles of a model would take them along.
_known: weakref.WeakKeyDictionary[nn.Conv2d, _Known] = weakref.WeakKeyDictionary()


def forget_folded(model: nn.Module) -> None:
    """Fold anew at the next call: writes through `.data` leave no trace."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            _known.pop(module, None)


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """Compute norm(conv(x)), with frozen batch norm folded into the weights of the convolution.

    Frozen batch norm is a constant scale and shift of each channel. Folded, it needs no pass over
    the feature map, and no map is kept for its backward pass.

    Args:
        x: (B, C, H, W).

    Returns:
        (B, C', H / stride, W / stride).
    """
    if not isinstance(norm, FrozenBatchNorm2d):
        return norm(conv(x))
    scale, shift, weight = _fold(conv, norm)
    if weight is None:
        weight = conv.weight * scale
    stride: tuple[int, ...] = conv.stride
    pointwise = conv.kernel_size == (1, 1) and stride != (1, 1)
    if pointwise and x.device.type == "cpu" and not torch.compiler.is_compiling():
        # Subsampling first gives the same result. The gradient of a 1x1 convolution with a stride
        # takes oneDNN up to five times as long.
        x, stride = x[:, :, :: stride[0], :: stride[1]], (1, 1)
    return F.conv2d(x, weight, shift, stride, conv.padding, conv.dilation, conv.groups)


def _fold(conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> Folded:
    """Return the constants, computed once: on a GPU they are 53 x 5 tiny kernels of a ResNet-50."""
    sources = (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    # Compiled and exported graphs hold the computation; inference tensors have no version.
    if torch.compiler.is_compiling() or is_exporting() or any(map(Tensor.is_inference, sources)):
        return _compute(conv, norm)
    state = (conv.weight.requires_grad, *((t.data_ptr(), t._version) for t in sources))
    known = _known.get(conv)
    if known is not None and known.state == state:
        return known.folded
    with torch.inference_mode(False), torch.no_grad():
        folded = _compute(conv, norm)
        if type(folded.scale) is type(norm.running_var):  # not FakeTensorMode's
            _known[conv] = _Known(folded, state, tuple(t.untyped_storage() for t in sources))
    return folded


def _compute(conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> Folded:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    scale = scale.view(-1, 1, 1, 1)
    return Folded(scale, shift, None if conv.weight.requires_grad else conv.weight * scale)


class FoldedBasicBlock(BasicBlock):
    """torchvision's basic block, run with `conv_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        out = F.relu_(conv_norm(x, self.conv1, self.bn1))
        out = conv_norm(out, self.conv2, self.bn2)
        out += x if self.downsample is None else conv_norm(x, *self.downsample)
        return F.relu_(out)


class FoldedBottleneck(Bottleneck):
    """torchvision's bottleneck block, run with `conv_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        out = F.relu_(conv_norm(x, self.conv1, self.bn1))
        out = F.relu_(conv_norm(out, self.conv2, self.bn2))
        out = conv_norm(out, self.conv3, self.bn3)
        out += x if self.downsample is None else conv_norm(x, *self.downsample)
        return F.relu_(out)
