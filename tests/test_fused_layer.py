"""Fused attention in a layer, in the detector and on the command line."""

import copy
import itertools

import pytest
import torch
from conftest import MAIN, ROOT, RPE, TINY_MODEL, error_line, run_ok
from test_fused_attention import DEVICE, HEADS, Case, needs_triton, padding_of, randn, seed
from test_irpe import METHODS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models import build_model
from models.rpe_attention import RPEMultiheadAttention
from models.rpe_attention.backends.fused import why_not_device
from models.rpe_attention.backends.sdpa import add_terms
from models.rpe_attention.irpe import get_rpe_config

pytestmark = needs_triton


def layer_and_reference(config, head_dim=8, **options):
    """A fused layer in float32, and the same in float64 with explicit logits."""
    layer = RPEMultiheadAttention(HEADS * head_dim, HEADS, rpe_config=config, **options)
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter, std=0.3 if "lookup" in name else 0.15)
    layer.to(DEVICE).attention = "fused"
    reference = copy.deepcopy(layer).double()
    reference.attention = "math"
    return layer, reference


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


def test_auto_is_fused_on_gpus_only():
    layer, _ = layer_and_reference(get_rpe_config(2.0))
    x = randn(12, 1, HEADS * 8)
    outs = {}
    for attention in ("auto", "fused", "sdpa"):
        layer.attention = attention
        outs[attention] = layer(x, x, x, need_weights=False, hw=(3, 4))[0]
    assert not torch.equal(outs["fused"], outs["sdpa"])
    chosen = "fused" if DEVICE.type == "cuda" else "sdpa"
    assert torch.equal(outs["auto"], outs[chosen])


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
    "extra tokens": {"config": {"skip": 1}, "hw": (1, 5)},
    "values": {"config": {"rpe_on": "kv"}},
    "no relative positions": {"config": None},
    "more than 128": {"head_dim": 136},
    "33 buckets, more than 32": {"config": {"ratio": 8.0}},
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
    if reason != "does not know Linear":
        layer.attention = "auto"
        layer(x, x, x, **call)


def test_devices_without_kernels():
    assert why_not_device(DEVICE) is None
    assert "not on meta" in why_not_device(torch.device("meta"))


# ---- memory ----


class Sizes(TorchDispatchMode):
    """Counts elements of the tensors that are made."""

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


# ---- the detector, torch.compile, the command line ----


def test_a_detector_finds_the_same(args):
    torch.manual_seed(0)
    images = [randn(3, 96, 160), randn(3, 128, 96)]
    outs = {}
    for attention in ("sdpa", "math", "fused"):
        torch.manual_seed(0)
        model, _, _ = build_model(args(*TINY_MODEL, "--attention", attention))
        outs[attention] = model.to(DEVICE).eval()(images)
    assert not torch.equal(outs["sdpa"]["pred_logits"], outs["fused"]["pred_logits"])
    for attention, name in itertools.product(("math", "fused"), ("pred_logits", "pred_boxes")):
        torch.testing.assert_close(outs[attention][name], outs["sdpa"][name], atol=1e-5, rtol=1e-5)


def test_the_operators_tell_torch_compile_the_truth():
    case = Case(2, 3, heads=1)
    tensors = [t.requires_grad_() for t in case.tensors]
    table = (case.offsets, case.side)
    arguments = (*tensors[:4], *table, tensors[4], *table, *case.hw, case.padding, seed(1), 0.5)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        torch.ops.rpe_attention.fused_forward.default, arguments, test_utils=checks
    )


@pytest.mark.slow
def test_a_compiled_layer_gives_the_same():
    layer, _ = layer_and_reference(get_rpe_config(2.0))
    x = randn(6, 1, HEADS * 8)
    compiled = torch.compile(layer, backend="aot_eager")
    results = []
    for function in (layer, compiled):
        out = function(x, x, x, need_weights=False, hw=(2, 3))[0]
        gradients = torch.autograd.grad(out.square().sum(), list(layer.parameters()))
        results.append((out, gradients))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.slow
def test_the_command_says_that_it_needs_a_gpu(tmp_path):
    line = error_line(
        MAIN, "--coco_path", tmp_path, "--attention", "fused", "--enc_rpe2d", RPE, "--device",
        "cpu", "--backbone_weights", "none", env={"TRITON_INTERPRET": "0"},
    )  # fmt: skip
    assert "--attention fused: it runs on CUDA devices" in line


@pytest.mark.skipif(DEVICE.type != "cpu", reason="needs the interpreter")
@pytest.mark.parametrize(
    ("rpe", "reason"), [("rpe-2.0-product-ctx-1-kv", "values"), ("", "no relative positions")]
)
def test_the_command_says_which_encoding_is_not_supported(tmp_path, rpe, reason):
    line = error_line(
        MAIN, "--coco_path", tmp_path, "--attention", "fused", "--device", "cpu",
        "--backbone_weights", "none", f"--enc_rpe2d={rpe}",
    )  # fmt: skip
    assert "--attention fused" in line and reason in line


@pytest.mark.slow
def test_the_kernels_compile_for_gpus(tmp_path):
    """Needs no GPU: the interpreter takes much that the compiler does not."""
    env = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    result = run_ok(ROOT / "tests" / "compile_kernels.py", env=env)
    spilled = [int(line.split()[1]) for line in result.stdout.splitlines() if "_kernel" in line]
    assert len(spilled) == 2 * 8 * 3, result.stdout  # GPUs, cases, kernels
    assert max(spilled) <= 1000, result.stdout  # bytes, of 255 registers of 4 bytes a thread


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from models.rpe_attention import RPEMultiheadAttention
from models.rpe_attention.irpe import get_rpe_config
layer = RPEMultiheadAttention(16, 2, rpe_config=get_rpe_config(2.0))
x = torch.randn(6, 1, 16)
layer(x, x, x, need_weights=False, hw=(2, 3))
layer.attention = "fused"
try:
    layer(x, x, x, need_weights=False, hw=(2, 3))
except ValueError as error:
    print(error)
"""


def test_without_triton_there_is_still_attention():
    assert "Triton cannot be imported (" in run_ok("-c", WITHOUT_TRITON).stdout
