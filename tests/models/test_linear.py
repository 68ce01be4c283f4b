"""Linear layers by way of a convolution give what F.linear gives."""

import pytest
import torch
import torch.nn.functional as F

from models.layers import Linear
from rpe_ops.attention import linear as module
from rpe_ops.attention.linear import linear


@pytest.fixture(autouse=True)
def by_convolution(monkeypatch):
    """Compute linear layers by convolution on every CPU."""
    monkeypatch.setattr(module, "convolution_is_faster", lambda: True)


def grads(function, *inputs):
    out = function(*inputs)
    return out, *torch.autograd.grad(out.square().sum(), inputs)


@pytest.mark.parametrize("shape", [(5, 3, 16), (7, 16), (16,), (1, 1, 16), (2, 3, 4, 16)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients(shape, with_bias):
    torch.manual_seed(0)
    inputs = [torch.randn(shape), torch.randn(24, 16), *([torch.randn(24)] if with_bias else [])]
    for tensor in inputs:
        tensor.requires_grad_()
    torch.testing.assert_close(grads(linear, *inputs), grads(F.linear, *inputs))


def test_views_that_are_not_contiguous():
    x = torch.randn(3, 16, 5).permute(2, 0, 1).requires_grad_()  # (5, 3, 16)
    weight = torch.randn(48, 16).requires_grad_()
    for part in weight.chunk(3):
        torch.testing.assert_close(linear(x, part), F.linear(x, part))
    torch.testing.assert_close(grads(linear, x, weight), grads(F.linear, x, weight))


def test_it_is_a_convolution_only_in_float32():
    x = torch.randn(5, 16)
    assert "ConvolutionBackward" in names(linear(x, torch.randn(24, 16).requires_grad_()))
    double = linear(x.double(), torch.randn(24, 16).double().requires_grad_())
    assert double.dtype == torch.float64 and "ConvolutionBackward" not in names(double)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Linear(16, 24)(x).dtype == torch.bfloat16


def test_no_rows():
    assert linear(torch.empty(0, 3, 16), torch.randn(24, 16), torch.randn(24)).shape == (0, 3, 24)


def names(tensor: torch.Tensor) -> str:
    """Return the names of the operations that made a tensor, up to three steps back."""
    found, nodes = [], [tensor.grad_fn]
    for _ in range(3):
        found += [node.name() for node in nodes]
        nodes = [before for node in nodes for before, _ in node.next_functions if before]
    return " ".join(found)
