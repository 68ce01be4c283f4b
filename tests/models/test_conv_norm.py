"""Frozen batch norm folded into convolutions, once."""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from models import conv_norm as module
from models.conv_norm import conv_norm, forget_folded

X = torch.linspace(-1, 1, 2 * 3 * 5 * 5).view(2, 3, 5, 5)


@pytest.fixture(params=[True, False], ids=["trained", "frozen"])
def layers(request):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), FrozenBatchNorm2d(4)
    conv.requires_grad_(request.param)
    for buffer in norm.buffers():
        buffer.copy_(torch.rand(4) + 0.5)
    return conv, norm


def assert_as_unfolded(conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> None:
    with torch.no_grad():
        torch.testing.assert_close(conv_norm(X, conv, norm), norm(conv(X)), atol=1e-5, rtol=1e-5)


def test_constants_are_computed_once(layers, monkeypatch):
    calls = []
    compute = module._compute
    monkeypatch.setattr(module, "_compute", lambda *a: calls.append(a) or compute(*a))
    for _ in range(3):
        assert_as_unfolded(*layers)
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_changes_of_the_norm_are_noticed(layers, name):
    conv, norm = layers
    assert_as_unfolded(conv, norm)
    getattr(norm, name).mul_(1.5)
    assert_as_unfolded(conv, norm)
    norm.load_state_dict({key: value * 1.1 for key, value in norm.state_dict().items()})
    assert_as_unfolded(conv, norm)
    setattr(norm, name, getattr(norm, name) + 0.25)
    assert_as_unfolded(conv, norm)


def test_changes_of_the_convolution_are_noticed(layers):
    conv, norm = layers
    assert_as_unfolded(conv, norm)
    with torch.no_grad():
        conv.weight.mul_(2)
    assert_as_unfolded(conv, norm)
    conv.weight.data = conv.weight.detach() + 1
    assert_as_unfolded(conv, norm)
    conv.requires_grad_(not conv.weight.requires_grad)
    assert_as_unfolded(conv, norm)
    # Written through .data, a tensor does not know that it has changed.
    conv.weight.data.mul_(3)
    norm.bias.data.add_(1)
    forget_folded(nn.Sequential(conv, norm))
    assert_as_unfolded(conv, norm)


def test_no_other_tensor_gets_the_memory_of_what_was_folded(layers):
    """Constants are known by it."""
    conv, norm = layers
    assert_as_unfolded(conv, norm)
    address = conv.weight.data_ptr()
    conv.weight.data = torch.empty(0)
    others = [torch.empty(4, 3, 3, 3) for _ in range(1000)]
    assert address not in [other.data_ptr() for other in others]


def test_copies_have_constants_of_their_own(layers):
    assert_as_unfolded(*layers)
    conv, norm = copy.deepcopy(layers)
    with torch.no_grad():
        conv.weight.add_(1)
        norm.running_mean.add_(1)
    assert_as_unfolded(conv, norm)
    assert_as_unfolded(*layers)
    assert not any("fold" in name for name in (*vars(conv), *vars(norm)))


def test_what_was_folded_in_inference_mode_can_be_trained_with(layers):
    conv, norm = layers
    with torch.inference_mode():
        conv_norm(X, conv, norm)
    x = X.clone().requires_grad_()
    conv_norm(x, conv, norm).sum().backward()
    wanted = torch.autograd.grad(norm(conv(x)).sum(), x)[0]
    torch.testing.assert_close(x.grad, wanted, atol=1e-5, rtol=1e-5)
