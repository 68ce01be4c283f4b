"""Attention against torch.nn.MultiheadAttention, and against a loop with relative positions."""

import itertools

import pytest
import torch
from torch import nn

from models.rpe_attention import RPEMultiheadAttention
from rpe_ops.irpe import get_rpe_config
from tests.helpers.rpe_loops import COMBINATIONS, METHODS, randomised, rpe_term

E, H, B, LQ, LK = 16, 4, 2, 6, 9
LAYERS = {
    "plain": {},
    "without bias": {"bias": False},
    "separate projections": {"kdim": 5, "vdim": 7},
    "bias key": {"add_bias_kv": True},
    "zero key": {"add_zero_attn": True},
    "all": {"add_bias_kv": True, "add_zero_attn": True, "kdim": 5, "vdim": 16},
}
PADDING = torch.zeros(B, LK, dtype=torch.bool)
PADDING[0, 7:] = True
FORBIDDEN = torch.rand(LQ, LK, generator=torch.Generator().manual_seed(0)) > 0.7
MASKS = {
    "none": {},
    "padding": {"key_padding_mask": PADDING},
    "bool": {"attn_mask": FORBIDDEN},
    "both": {"attn_mask": FORBIDDEN, "key_padding_mask": PADDING},
    "float per head": {"attn_mask": torch.linspace(-2, 2, B * H * LQ * LK).view(B * H, LQ, LK)},
    "both float": {
        "attn_mask": torch.linspace(-2, 2, LQ * LK).view(LQ, LK),
        "key_padding_mask": torch.linspace(-1, 1, B * LK).view(B, LK),
    },
}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("layer", LAYERS)
def test_without_rpe_it_is_torchs(layer, masks, need_weights):
    torch.manual_seed(0)
    options = LAYERS[layer]
    theirs = nn.MultiheadAttention(E, H, **options)
    ours = RPEMultiheadAttention(E, H, **options)
    ours.load_state_dict(theirs.state_dict())  # strict: the same names and shapes
    query = torch.randn(LQ, B, E)
    key = torch.randn(LK, B, options.get("kdim", E))
    value = torch.randn(LK, B, options.get("vdim", E))
    results = []
    for module in (theirs, ours):
        out, weights = module(query, key, value, need_weights=need_weights, **MASKS[masks])
        out.square().sum().backward()
        results.append((out, weights, [p.grad for p in module.parameters()]))
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-5)


def test_self_attention_projects_once_and_gives_the_same():
    ours = RPEMultiheadAttention(E, H)
    x = torch.randn(LQ, B, E)
    torch.testing.assert_close(ours(x, x, x), ours(x, x.clone(), x.clone()))


def loop_attention(layer, method, x, height, width):
    """Section by section from the formulas; x: (L, 1, E) -> (L, 1, E) and the mean weights."""
    length, d = height * width, E // H
    q, k, v = (
        (x[:, 0] @ w.T + b).view(length, H, d)
        for w, b in zip(layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True)
    )
    q = q / d**0.5
    q_heads, k_heads = (t.transpose(0, 1)[None] for t in (q, k / d**0.5))
    heads, mean = [], 0
    for h in range(H):
        logits = torch.zeros(length, length, dtype=x.dtype)
        for i, j in itertools.product(range(length), repeat=2):
            logits[i, j] = q[i, h] @ k[j, h]
            size = (height, width)
            logits[i, j] += rpe_term(layer.rpe_k, method, False, q_heads, i, j, 0, h, *size)
            # On queries the key looks the query up: transposed.
            logits[i, j] += rpe_term(layer.rpe_q, method, False, k_heads, j, i, 0, h, *size)
        weights = logits.softmax(-1)
        mean = mean + weights / H
        rows = []
        for i in range(length):
            rows.append(
                sum(
                    weights[i, j]
                    * (
                        v[j, h]
                        + rpe_term(layer.rpe_v, method, True, None, i, j, 0, h, height, width)
                    )
                    for j in range(length)
                )
            )
        heads.append(torch.stack(rows))
    out = torch.cat(heads, 1) @ layer.out_proj.weight.T + layer.out_proj.bias
    return out[:, None], mean[None]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("mode", "rpe_on"), COMBINATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_with_rpe_it_is_the_loop(method, mode, rpe_on, shared):
    torch.manual_seed(0)
    height, width = 2, 3
    config = get_rpe_config(2.0, method, mode, shared, rpe_on=rpe_on)
    layer = randomised(RPEMultiheadAttention(E, H, rpe_config=config))
    x = torch.randn(height * width, 1, E, dtype=torch.float64)
    direction = torch.randn_like(x)

    def gradients(out):
        return torch.autograd.grad((out * direction).sum(), list(layer.parameters()))

    wanted, wanted_weights = loop_attention(layer, method, x, height, width)
    out, weights = layer(x, x, x, hw=(height, width))
    alone, no_weights = layer(x, x, x, hw=(height, width), need_weights=False)
    assert no_weights is None
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(alone, wanted)
    torch.testing.assert_close(weights, wanted_weights)
    wanted_gradients = gradients(wanted)
    torch.testing.assert_close(gradients(out), wanted_gradients)
    torch.testing.assert_close(gradients(alone), wanted_gradients)


@pytest.mark.parametrize("mode", ["ctx", "bias"])
@pytest.mark.parametrize("rpe_on", ["q", "k", "qk"])
def test_without_gradients_it_is_the_same(mode, rpe_on):
    """Evaluation hands all terms of the logits to PyTorch together, masks included."""
    torch.manual_seed(0)
    config = get_rpe_config(2.0, mode=mode, shared_head=False, rpe_on=rpe_on)
    layer = randomised(RPEMultiheadAttention(E, H, rpe_config=config))
    x = torch.randn(6, B, E, dtype=torch.float64)
    padding = torch.zeros(B, 6, dtype=torch.bool)
    padding[1, 4:] = True
    wanted, _ = layer(x, x, x, key_padding_mask=padding, hw=(2, 3), need_weights=True)
    with torch.no_grad():
        found, _ = layer(x, x, x, key_padding_mask=padding, hw=(2, 3), need_weights=False)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("need_weights", [True, False])
def test_padding_gets_no_attention(need_weights):
    config = get_rpe_config(2.0, rpe_on="qk")
    layer = randomised(RPEMultiheadAttention(E, H, rpe_config=config))
    x = torch.randn(6, B, E, dtype=torch.float64)
    padding = torch.zeros(B, 6, dtype=torch.bool)
    padding[1, 4:] = True
    out, _ = layer(x, x, x, key_padding_mask=padding, hw=(2, 3), need_weights=need_weights)
    changed = x.clone()
    changed[4:, 1] += 1
    again, _ = layer(
        changed, changed, changed, key_padding_mask=padding, hw=(2, 3), need_weights=need_weights
    )
    torch.testing.assert_close(out[:4], again[:4])


def test_dropout_acts_in_training_only():
    config = get_rpe_config(2.0, rpe_on="kv")
    layer = randomised(RPEMultiheadAttention(E, H, dropout=0.5, rpe_config=config))
    x = torch.randn(6, B, E, dtype=torch.float64)
    outs = [layer(x, x, x, hw=(2, 3))[0] for _ in range(2)]
    assert not torch.equal(*outs)
    layer.eval()
    outs = [layer(x, x, x, hw=(2, 3))[0] for _ in range(2)]
    assert torch.equal(*outs)


def test_nothing_as_large_as_pairs_times_features_exists(monkeypatch):
    """RPE on values must not build an (H, L, L, D) tensor, forward or backward."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append(out.untyped_storage().nbytes() // out.element_size())
            return out

    length, heads, dim = 64, 2, 32
    layer = RPEMultiheadAttention(heads * dim, heads, rpe_config=get_rpe_config(2.0, rpe_on="qkv"))
    x = torch.randn(length, 1, heads * dim)
    with Watch():
        layer(x, x, x, hw=(8, 8))[0].sum().backward()
    assert 0 < max(sizes) < heads * length * length * dim


def test_what_does_not_fit_is_refused():
    config = get_rpe_config(2.0)
    layer = RPEMultiheadAttention(E, H, rpe_config=config)
    with pytest.raises(ValueError, match="6 queries are not a map of 2 x 2: give hw"):
        layer(torch.randn(6, B, E), torch.randn(9, B, E), torch.randn(9, B, E))
    with pytest.raises(ValueError, match="3 extra tokens, but RPE was configured"):
        layer(torch.randn(6, B, E), torch.randn(9, B, E), torch.randn(9, B, E), hw=(2, 3))
    with pytest.raises(ValueError, match="add_zero_attn"):
        RPEMultiheadAttention(E, H, add_zero_attn=True, rpe_config=config)
