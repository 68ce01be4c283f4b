"""Attention and dropout of training on CPUs, against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from models.layers import Dropout
from rpe_ops.attention import cpu as module
from rpe_ops.attention.cpu import cpu_attention
from rpe_ops.attention.dropout import random_mask

B, H, LQ, LK, D = 2, 3, 5, 7, 4


def inputs():
    q, k, v = (torch.randn(B, H, n, D, dtype=torch.float64) for n in (LQ, LK, LK))
    padding = torch.zeros(B, 1, 1, LK, dtype=torch.float64)
    padding[1, ..., -2:] = float("-inf")
    term = torch.randn(1, H, LQ, LK, dtype=torch.float64)
    return [t.requires_grad_() for t in (q, k, v)], padding, term.requires_grad_()


@pytest.mark.parametrize("chunk", [1, 2 * LQ * LK, H * LQ * LK, module.CHUNK])
def test_equals_scaled_dot_product_attention(chunk, monkeypatch):
    """In parts of a head, two heads, an image, and all at once."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    leaves, padding, term = inputs()
    out = cpu_attention(*leaves, [padding, term], dropout_p=0.0)
    wanted = F.scaled_dot_product_attention(*leaves, attn_mask=padding + term, scale=1.0)
    torch.testing.assert_close(out, wanted)
    grads, wanted_grads = (
        torch.autograd.grad(y.square().sum(), [*leaves, term]) for y in (out, wanted)
    )
    for grad, wanted in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, wanted)


def test_dropout_falls_on_the_same_weights_forward_and_backward():
    leaves, padding, term = inputs()
    q, k, v = leaves
    torch.manual_seed(5)
    out = cpu_attention(q, k, v, [padding, term], dropout_p=0.4)
    torch.manual_seed(5)
    mask, stay = random_mask(torch.Size([B, H, LQ, LK]), 0.4)
    assert 0 < mask.sum() < mask.numel()
    weights = (q @ k.mT + padding + term).softmax(-1) * mask / stay
    torch.testing.assert_close(out, weights @ v)
    grads, wanted_grads = (
        torch.autograd.grad(y.square().sum(), [*leaves, term]) for y in (out, weights @ v)
    )
    for grad, wanted in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, wanted)


@pytest.mark.parametrize("chunk", [1, 2 * LQ * LK, module.CHUNK])
def test_gradients_with_dropout_in_parts(chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    leaves, padding, term = inputs()

    def seeded(*tensors):
        torch.manual_seed(5)
        return cpu_attention(*tensors[:3], [padding, tensors[3]], 0.4)

    assert torch.autograd.gradcheck(seeded, (*leaves, term))
    assert not torch.equal(seeded(*leaves, term), cpu_attention(*leaves, [padding, term], 0.0))


def test_a_gradient_of_the_gradient_is_refused_not_wrong():
    leaves, padding, _ = inputs()
    """At once: autograd.grad would go around an error that came later."""
    out = cpu_attention(*leaves, [padding], dropout_p=0.0)
    with pytest.raises(RuntimeError, match=r'differentiable once.* attention="math"'):
        torch.autograd.grad(out.square().sum(), leaves[:1], create_graph=True)


@pytest.mark.parametrize("p", [1.0, 0.999999])
def test_dropout_of_all_leaves_zeros(p):
    x = torch.ones(20, 30, requires_grad=True)
    out = Dropout(p)(x)
    out.sum().backward()
    assert not out.any() and not x.grad.any()
    leaves, _, _ = inputs()
    out = cpu_attention(*leaves, [], dropout_p=p)
    assert not out.any() and not torch.autograd.grad(out.sum(), leaves[:1])[0].any()


def test_bfloat16_is_close_to_float32():
    leaves, padding, term = inputs()
    exact = cpu_attention(*leaves, [padding, term], 0.0)
    half = cpu_attention(
        *(t.bfloat16() for t in leaves), [padding.bfloat16(), term.bfloat16()], 0.0
    )
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_as_many_as_it_should_and_the_mean(p):
    torch.manual_seed(0)
    x = torch.ones(1001, 999, requires_grad=True)
    out = Dropout(p)(x)
    dropped = (out == 0).float().mean().item()
    assert dropped == pytest.approx(p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5 + 2**-17)
    kept = out[out != 0]
    assert torch.allclose(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-4)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_dropout_of_neighbours_is_independent():
    """Four elements share a random number of 64 bits; each has 16 of its own."""
    torch.manual_seed(0)
    mask, _ = random_mask(torch.Size([4_000_000]), 0.3)
    columns = mask.view(-1, 4).float()
    assert (columns.mean(0) - 0.7).abs().max() < 0.003
    correlation = torch.corrcoef(columns.T) - torch.eye(4)
    assert correlation.abs().max() < 0.004


def test_dropout_does_nothing_in_evaluation_or_with_p_0_and_follows_the_seed():
    x = torch.randn(50, 3)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(Dropout(0.5)(x))
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])
