"""RPE that attention for training on CPUs looks up in parts, against the formula."""

import pytest
import torch

from rpe_ops.attention import cpu, encodings, rpe_attention
from rpe_ops.attention.call import AttentionCall
from rpe_ops.attention.dropout import random_mask
from rpe_ops.attention.function import find_maps
from rpe_ops.irpe import build_rpe, get_rpe_config

B, H, D = 3, 2, 4
HEIGHT, WIDTH = 2, 3
L = 1 + HEIGHT * WIDTH


def modules(method, letters, shared=True, mode="ctx"):
    config = get_rpe_config(1.5, method, mode, shared, skip=1, rpe_on=letters)
    rpe = build_rpe(config, D, H)
    for module in rpe:
        for table in () if module is None else module.parameters():
            table.data = torch.randn(table.shape, dtype=torch.float64)
    return rpe


def inputs():
    torch.manual_seed(3)
    q, k, v = (torch.randn(B, H, L, D, dtype=torch.float64, requires_grad=True) for _ in "qkv")
    padding = torch.zeros(B, L, dtype=torch.bool)
    padding[1, -2:] = True
    return q, k, v, padding


def formula(q, k, v, rpe_q, rpe_k, rpe_v, padding, kept=1.0):
    """Compute attention with explicit logits."""
    q, hw = q * D**-0.5, (HEIGHT, WIDTH)
    logits = q @ k.mT
    if rpe_k is not None:
        logits = logits + rpe_k(q, *hw)
    if rpe_q is not None:
        logits = logits + rpe_q(k * D**-0.5, *hw).mT
    weights = logits.masked_fill(padding[:, None, None], float("-inf")).softmax(-1) * kept
    return weights @ v + (0 if rpe_v is None else rpe_v(weights, *hw))


def tables_of(rpe):
    return [table for module in rpe if module is not None for table in module.parameters()]


@pytest.mark.parametrize("chunk", [1, H * L * L, cpu.CHUNK])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("letters", ["k", "q", "v", "qkv"])
@pytest.mark.parametrize("method", ["product", "cross"])
def test_equals_the_formula(method, letters, shared, chunk, monkeypatch):
    """In parts of a head, of an image, and all at once."""
    monkeypatch.setattr(cpu, "CHUNK", chunk)
    q, k, v, padding = inputs()
    rpe = modules(method, letters, shared)
    call = AttentionCall(
        q * D**-0.5, k, v, D**-0.5, find_maps(L, L, (HEIGHT, WIDTH), 1), *rpe, padding
    )
    assert cpu.why_not(call) is None
    out = rpe_attention(
        q, k, v, *rpe, hw=(HEIGHT, WIDTH), skip=1, key_padding_mask=padding, attention="auto"
    )
    wanted = formula(q, k, v, *rpe, padding)
    torch.testing.assert_close(out, wanted)
    leaves = [q, k, v, *tables_of(rpe)]
    direction = torch.randn_like(out)
    grads, wanted_grads = (torch.autograd.grad(y, leaves, direction) for y in (out, wanted))
    for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, wanted_grad)
        assert grad.abs().sum() > 0


def test_dropout_is_before_values():
    """Each weight is dropped for the values and for the encoding on them at once."""
    q, k, v, padding = inputs()
    rpe = modules("product", "qkv")
    torch.manual_seed(5)
    out = rpe_attention(
        q, k, v, *rpe, hw=(HEIGHT, WIDTH), skip=1, key_padding_mask=padding, dropout_p=0.4
    )
    torch.manual_seed(5)
    mask, stay = random_mask(torch.Size([B, H, L, L]), 0.4)
    wanted = formula(q, k, v, *rpe, padding, kept=mask / stay)
    torch.testing.assert_close(out, wanted)
    leaves = [q, k, v, *tables_of(rpe)]
    grads, wanted_grads = (torch.autograd.grad(y.square().sum(), leaves) for y in (out, wanted))
    for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, wanted_grad)


def test_only_the_softmax_is_kept_of_the_size_of_the_logits():
    q, k, v, _ = inputs()
    rpe = modules("product", "qkv")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        rpe_attention(q, k, v, *rpe, hw=(HEIGHT, WIDTH), skip=1)
    assert kept.count((B, H, L, L)) == 1


def test_bfloat16_is_close_to_float64_and_tables_keep_their_dtype():
    q, k, v, padding = inputs()
    rpe = modules("product", "qkv")
    wanted = formula(q, k, v, *rpe, padding)
    leaves = [q, k, v, *tables_of(rpe)]
    wanted_grads = torch.autograd.grad(wanted.sum(), leaves)
    half = [tensor.detach().float().requires_grad_() for tensor in (q, k, v)]
    for module in rpe:
        module.float()
    with torch.autocast("cpu", torch.bfloat16):
        low = [tensor.bfloat16() for tensor in half]
        out = rpe_attention(*low, *rpe, hw=(HEIGHT, WIDTH), skip=1, key_padding_mask=padding)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), wanted, atol=0.2, rtol=0.05)
    grads = torch.autograd.grad(out.sum(), [*half, *tables_of(rpe)])
    for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad.double(), wanted_grad, atol=0.6, rtol=0.1)


def test_modules_of_other_origin_are_called():
    """They know height and width alone, and attention on CPUs has nothing to look up in them."""

    class Mine(torch.nn.Module):
        def forward(self, x, height, width):
            assert (height, width) == (HEIGHT, WIDTH)
            return torch.full((1, 1, L, L), 0.5, dtype=x.dtype).tril()

    class MyValues(torch.nn.Module):
        def forward(self, x, height, width):
            return x.sum(-1, keepdim=True).expand(-1, -1, -1, D)

    q, k, v, _ = inputs()
    options = {"hw": (HEIGHT, WIDTH), "skip": 1}
    term = torch.full((L, L), 0.5, dtype=torch.float64).tril()
    weights = (q @ k.mT * D**-0.5 + term).softmax(-1)
    torch.testing.assert_close(rpe_attention(q, k, v, rpe_k=Mine(), **options), weights @ v)
    out = rpe_attention(q, k, v, None, Mine(), MyValues(), **options)
    torch.testing.assert_close(out, weights @ v + 1)
    assert encodings.on_values(AttentionCall(q, k, v, 1.0, rpe_v=MyValues())) is None
