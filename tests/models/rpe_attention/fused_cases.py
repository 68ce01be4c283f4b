"""Random arguments of fused attention, and its formulas in float64."""

import copy

import pytest
import torch
from torch import nn

from models.rpe_attention import RPEMultiheadAttention
from rpe_ops.attention.fused import NO_TRITON, RPETerm, fused_attention
from rpe_ops.irpe import bucket_ids, get_rpe_config, offset_buckets

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HEADS = 2
needs_triton = pytest.mark.skipif(NO_TRITON is not None, reason=str(NO_TRITON))


def randn(*shape, dtype=torch.float32):
    """The same numbers on every device."""
    return torch.randn(shape, dtype=torch.float64).to(DEVICE, dtype)


def padding_of(batch, height, width):
    """Image b lacks b columns on the right and b rows at the bottom, as far as there are any."""
    padding = torch.zeros(batch, height, width, dtype=torch.bool, device=DEVICE)
    for b in range(batch):
        padding[b, :, max(width - b, 1) :] = True
        padding[b, max(height - b, 1) :] = True
    return padding.flatten(1)


def explicit(q, k, v, t_k, t_q, ids, padding=None, factor=1):
    """The formulas; `factor` multiplies the weights, for dropout. ids: (L, L)."""
    logits = q @ k.transpose(2, 3)
    index = ids.long().expand_as(logits)
    if t_k is not None:
        logits = logits + t_k.expand(*q.shape[:3], -1).gather(3, index)
    if t_q is not None:
        logits = logits + t_q.expand(*q.shape[:3], -1).gather(3, index).transpose(2, 3)
    if padding is not None:
        logits = logits.masked_fill(padding[:, None, None], float("-inf"))
    return (logits.softmax(-1) * factor) @ v


class Case:
    """Random arguments of `fused_attention`, and what must come of them."""

    def __init__(
        self, height, width, head_dim=8, batch=2, heads=HEADS, method="product", ratio=1.9,
        on="qk", dtype=torch.float32, padded=True,
    ):  # fmt: skip
        torch.manual_seed(0)
        settings = get_rpe_config(ratio, method).rpe_k
        length = height * width
        self.hw = (height, width)
        self.side = settings.side
        self.ids = bucket_ids(settings, height, width).to(DEVICE)
        self.offsets = offset_buckets(settings, height, width).to(DEVICE)
        self.padding = padding_of(batch, height, width) if padded else None
        shape = (batch, heads, length)
        self.tensors = [randn(*shape, head_dim, dtype=dtype) for _ in range(3)]
        self.tensors += [
            randn(*shape, settings.num_buckets, dtype=dtype) if letter in on else None
            for letter in "kq"
        ]
        self.direction = randn(*shape, head_dim, dtype=dtype)

    def fused(self, *tensors, **options):
        q, k, v, *tables = tensors
        terms = [None if t is None else RPETerm(t, self.offsets, self.side) for t in tables]
        return fused_attention(q, k, v, self.hw, *terms, self.padding, **options)

    def with_gradients(self, function, tensors, direction):
        """[out, dq, dk, dv, dt_k, dt_q], without the tables that are None."""
        leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
        out = function(*leaves)
        wanted = [t for t in leaves if t is not None]
        return [out.detach(), *torch.autograd.grad(out, wanted, direction)]

    def ours(self, **options):
        return self.with_gradients(
            lambda *tensors: self.fused(*tensors, **options), self.tensors, self.direction
        )

    def wanted(self, factor=1):
        """In float64, of the same (rounded) arguments."""
        double = [None if t is None else t.double() for t in self.tensors]
        return self.with_gradients(
            lambda *tensors: explicit(*tensors, self.ids, self.padding, factor),
            double,
            self.direction.double(),
        )

    def check(self, factor=1, atol=2e-5, rtol=2e-5, **options):
        for ours, wanted in zip(self.ours(**options), self.wanted(factor), strict=True):
            torch.testing.assert_close(ours.double(), wanted, atol=atol, rtol=rtol)


def seed(number):
    return torch.tensor([number], device=DEVICE)


def layer_and_reference(config, head_dim=8, **options):
    """A fused layer in float32, and the same in float64 with explicit logits."""
    layer = RPEMultiheadAttention(HEADS * head_dim, HEADS, rpe_config=config, **options)
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter, std=0.3 if "lookup" in name else 0.15)
    layer.to(DEVICE).attention = "fused"
    reference = copy.deepcopy(layer).double()
    reference.attention = "math"
    return layer, reference
