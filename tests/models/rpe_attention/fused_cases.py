"""Random arguments of fused attention, and its formulas in float64."""

import copy

import pytest
import torch
from torch import nn

from models.rpe_attention import RPEMultiheadAttention
from rpe_ops.attention.fused import NO_TRITON, Buckets, RPETerm, fused_attention
from rpe_ops.irpe import MapPair, TokenMap, get_rpe_config, offset_buckets, pair_bucket_ids

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


def explicit(q, k, v, t_k, t_q, ids, ids_by_keys, buckets=None, padding=None, factor=1):
    """The formulas; `factor` multiplies the weights, for dropout.

    ids: (Lq, Lk); ids_by_keys: (Lk, Lq); buckets: how many weights are summed into, or None.
    """
    logits = q @ k.transpose(2, 3)
    if t_k is not None:
        index = ids.long().expand_as(logits)
        logits = logits + t_k.expand(*q.shape[:3], -1).gather(3, index)
    if t_q is not None:
        index = ids_by_keys.long().expand_as(logits.mT)
        logits = logits + t_q.expand(*k.shape[:3], -1).gather(3, index).transpose(2, 3)
    if padding is not None:
        logits = logits.masked_fill(padding[:, None, None], float("-inf"))
    weights = logits.softmax(-1) * factor
    if buckets is None:
        return weights @ v, None
    one_hot = nn.functional.one_hot(ids.long(), buckets).to(weights.dtype)
    return weights @ v, torch.einsum("bhij,ijn->bhin", weights, one_hot)


class Case:
    """Random arguments of `fused_attention`, and what must come of them.

    `height` and `width` are of the keys' map, `queries` of the queries', if it is another one.
    """

    def __init__(
        self, height, width, head_dim=8, batch=2, heads=HEADS, method="product", ratio=1.9,
        on="qk", dtype=torch.float32, padded=True, skip=(0, 0), queries=None,
    ):  # fmt: skip
        torch.manual_seed(0)
        settings = get_rpe_config(ratio, method, skip=max(skip)).rpe_k
        of_queries = TokenMap(*(queries or (height, width)), skip[0])
        self.maps = MapPair(of_queries, TokenMap(height, width, skip[1]))
        self.num_buckets = settings.num_buckets
        self.ids, self.ids_by_keys = (
            pair_bucket_ids(settings, self.maps, by_keys, DEVICE) for by_keys in (False, True)
        )
        offsets = offset_buckets(settings, height, width).to(DEVICE)
        self.buckets = Buckets(offsets, settings.side, method == "product")
        self.on_values = "v" in on
        self.padding = None
        if padded:
            self.padding = nn.functional.pad(padding_of(batch, height, width), (skip[1], 0))
        of_q, of_k = ((batch, heads, of_one.tokens) for of_one in self.maps)
        self.tensors = [randn(*shape, head_dim, dtype=dtype) for shape in (of_q, of_k, of_k)]
        self.tensors += [
            randn(*shape, self.num_buckets, dtype=dtype) if letter in on else None
            for letter, shape in (("k", of_q), ("q", of_k))
        ]
        self.directions = [randn(*of_q, head_dim, dtype=dtype)]
        if self.on_values:
            self.directions.append(randn(*of_q, self.num_buckets))

    def fused(self, *tensors, **options):
        """Output, and sums if there are any."""
        q, k, v, *tables = tensors
        terms = [None if t is None else RPETerm(t, self.buckets) for t in tables]
        buckets = self.buckets if self.on_values else None
        arguments = (q, k, v, self.maps, *terms, buckets, self.padding)
        return fused_attention(*arguments, **options)[: 1 + self.on_values]

    def with_gradients(self, function, tensors, directions):
        """[out, dq, dk, dv, dt_k, dt_q], with the sums after out, without tables that are None."""
        leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
        outs = function(*leaves)
        wanted = [t for t in leaves if t is not None]
        outs = outs[: len(directions)]
        return [*(out.detach() for out in outs), *torch.autograd.grad(outs, wanted, directions)]

    def ours(self, **options):
        return self.with_gradients(
            lambda *tensors: self.fused(*tensors, **options), self.tensors, self.directions
        )

    def wanted(self, factor=1):
        """In float64, of the same (rounded) arguments."""
        double = [None if t is None else t.double() for t in self.tensors]
        buckets = self.num_buckets if self.on_values else None
        others = (self.ids, self.ids_by_keys, buckets, self.padding, factor)
        return self.with_gradients(
            lambda *tensors: explicit(*tensors, *others),
            double,
            [direction.double() for direction in self.directions],
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
