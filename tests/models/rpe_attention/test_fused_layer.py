"""Fused attention in a layer: the same results as with explicit logits, and less memory."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.rpe_attention import RPEMultiheadAttention
from rpe_ops.attention import backends
from rpe_ops.attention.call import AttentionCall
from rpe_ops.attention.fused import why_not_device
from rpe_ops.attention.sdpa import add_terms
from rpe_ops.irpe import build_rpe, get_rpe_config
from tests.helpers.rpe_loops import METHODS
from tests.models.rpe_attention.fused_cases import (
    DEVICE,
    HEADS,
    layer_and_reference,
    needs_triton,
    padding_of,
    randn,
)

pytestmark = needs_triton


LAYERS = [
    ("product", "ctx", "k", True, 2.0, (5, 7), 32),
    ("product", "bias", "qk", False, 3.0, (3, 5), 8),
    ("cross", "ctx", "qk", False, 2.0, (2, 17), 8),
    ("cross", "bias", "q", True, 1.9, (4, 3), 8),
    ("euc", "ctx", "q", False, 3.0, (3, 5), 8),
    ("euc", "bias", "k", True, 1.9, (1, 9), 8),
    ("quant", "ctx", "k", True, 2.0, (1, 9), 8),
    ("quant", "bias", "qk", False, 1.9, (3, 4), 8),
]
ALL_LAYERS = [
    (*choice, 2.0, (3, 4), 8)
    for choice in itertools.product(METHODS, ("ctx", "bias"), ("k", "q", "qk"), (True, False))
]


def check_layer(method, mode, on, shared, ratio, hw, head_dim):
    torch.manual_seed(0)
    config = get_rpe_config(ratio, method, mode, shared, rpe_on=on)
    layer, reference = layer_and_reference(config, head_dim)
    length, features = hw[0] * hw[1], HEADS * head_dim
    x, position, direction = (randn(length, 2, features) for _ in range(3))
    results = []
    for module in (layer, reference):
        dtype = next(module.parameters()).dtype
        leaf, absolute = (t.to(dtype).detach().requires_grad_() for t in (x, position))
        query = leaf + absolute
        out, weights = module(query, query, leaf, padding_of(2, *hw), need_weights=False, hw=hw)
        assert weights is None
        leaves = {"x": leaf, "position": absolute, **dict(module.named_parameters())}
        gradients = torch.autograd.grad(out, list(leaves.values()), direction.to(dtype))
        results.append({"out": out, **dict(zip(leaves, gradients))})
    ours, wanted = results
    for name in wanted:
        torch.testing.assert_close(
            ours[name].double(), wanted[name], atol=5e-5, rtol=5e-5, msg=lambda m, n=name: n + m
        )
    assert all(wanted[name].ne(0).any() for name in wanted if "lookup" in name)


@pytest.mark.parametrize(
    "case",
    [
        LAYERS[0],
        LAYERS[2],
        *(pytest.param(c, marks=pytest.mark.slow) for c in LAYERS[1:2] + LAYERS[3:]),
    ],
    ids=str,
)
def test_a_layer_is_the_layer_with_logits(case):
    check_layer(*case)


@pytest.mark.nightly
@pytest.mark.parametrize("case", ALL_LAYERS, ids=str)
def test_all_layers_are_layers_with_logits(case):
    check_layer(*case)


def test_a_table_with_a_bucket_for_extra_tokens():
    """A class token was configured, but there is none in this map."""
    for method in ("product", "cross"):
        layer, reference = layer_and_reference(get_rpe_config(2.0, method, skip=1))
        x = randn(6, 1, HEADS * 8)
        options = {"need_weights": False, "hw": (2, 3)}
        out, wanted = layer(x, x, x, **options)[0], reference(*[x.double()] * 3, **options)[0]
        torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=1e-5)


def test_auto_is_sdpa_on_small_maps():
    layer, _ = layer_and_reference(get_rpe_config(2.0))
    x = randn(12, 1, HEADS * 8)
    outs = {}
    for attention in ("auto", "fused", "sdpa"):
        layer.attention = attention
        outs[attention] = layer(x, x, x, need_weights=False, hw=(3, 4))[0]
    assert not torch.equal(outs["fused"], outs["sdpa"])
    assert torch.equal(outs["auto"], outs["sdpa"])


def first_choice(device, tokens=1050, dtype=torch.bfloat16, head_dim=32, method="product", batch=2):
    """Which backend `auto` tries first for a call that is never computed."""
    rpe = build_rpe(get_rpe_config(2.0, method), 8, 8)[1]
    x = torch.empty(batch, 8, tokens, head_dim, dtype=dtype, device="meta")
    call = AttentionCall(x, x, x, 1.0, rpe_k=rpe, dropout_p=0.1)
    shape = {"shape": x.shape, "dtype": dtype, "element_size": x.element_size}
    call.q = SimpleNamespace(device=torch.device(device), **shape)
    return backends.candidates("auto", call)[0]


def test_auto_takes_fused_on_gpus_where_it_should_win_or_memory_demands_it():
    assert first_choice("cuda") is first_choice("cuda", method="cross") is backends.fused
    assert first_choice("cuda", dtype=torch.float16) is backends.fused
    assert first_choice("cpu") is backends.cpu
    for other in ({"tokens": 300}, {"dtype": torch.float32}, {"head_dim": 64}, {"method": "euc"}):
        assert first_choice("cuda", **other) is backends.sdpa, other
        # 16 GB of 16 bits, were it a mask
        assert first_choice("cuda", **{**other, "tokens": 4200}, batch=64) is backends.fused, other


def test_the_name_is_not_part_of_the_state():
    config = get_rpe_config(2.0)
    states = [
        RPEMultiheadAttention(16, 2, rpe_config=config, attention=name).state_dict().keys()
        for name in ("auto", "fused")
    ]
    assert states[0] == states[1]
    with pytest.raises(ValueError, match="auto, sdpa, fused, math"):
        RPEMultiheadAttention(16, 2, rpe_config=config, attention="flash")


UNSUPPORTED = {
    "need_weights": {"need_weights": True},
    "attn_mask": {"attn_mask": torch.zeros(6, 6)},
    "not bool": {"key_padding_mask": torch.zeros(1, 6)},
    "extra tokens, but RPE": {"hw": (1, 5)},
    "no relative positions": {"config": None},
    "more than 128": {"head_dim": 136},
    "float64": {"dtype": torch.float64},
    "leaves no weights": {"dropout": 1.0},
    "does not know Linear": {"rpe_k": nn.Linear(8, 6)},
}


@pytest.mark.parametrize("reason", UNSUPPORTED)
def test_what_is_not_supported_is_named(reason):
    options = dict(UNSUPPORTED[reason])
    config = options.pop("config", {})
    config = None if config is None else get_rpe_config(**config)
    head_dim, dtype = options.pop("head_dim", 8), options.pop("dtype", torch.float32)
    layer, _ = layer_and_reference(config, head_dim, dropout=options.pop("dropout", 0.0))
    layer.to(dtype)
    layer.rpe_k = options.pop("rpe_k", layer.rpe_k)
    x = randn(6, 1, HEADS * head_dim, dtype=dtype)
    call = {"need_weights": False, "hw": (2, 3), **options}
    call = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in call.items()}
    with pytest.raises(ValueError, match=f"fused attention is not supported here: .*{reason}"):
        layer(x, x, x, **call)
    if reason not in ("does not know Linear", "extra tokens, but RPE"):
        layer.attention = "auto"
        layer(x, x, x, **call)


def test_devices_without_kernels():
    assert why_not_device(DEVICE) is None
    assert "not on meta" in why_not_device(torch.device("meta"))


# ---- memory ----


class Sizes(TorchDispatchMode):
    """Records the number of elements of each tensor that is made."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.sizes.append(tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def sizes_of_a_step(attention):
    layer, _ = layer_and_reference(get_rpe_config(1.9))
    layer.attention = attention
    x = randn(64, 1, HEADS * 8)
    with Sizes() as made:
        out, _ = layer(x, x, x, padding_of(1, 8, 8), need_weights=False, hw=(8, 8))
        out.sum().backward()
    return made.sizes


@pytest.mark.slow
def test_nothing_as_large_as_pairs_is_made():
    pairs = HEADS * 64 * 64
    assert max(sizes_of_a_step("sdpa")) >= pairs  # the measure measures
    assert 0 < max(sizes_of_a_step("fused")) < pairs


def test_a_mask_is_added_in_place_only_where_that_is_safe():
    mask = randn(2, 1, 1, 4)
    for shape, fresh in (((2, 3, 4, 4), True), ((2, 3, 4, 4), False), ((1, 3, 4, 4), True)):
        term = randn(*shape)
        before = term.clone()
        total = add_terms([term, mask], fresh)
        assert torch.equal(total, before + mask)
        in_place = fresh and shape[0] == 2
        assert (total is term) == in_place and torch.equal(term, before) != in_place
