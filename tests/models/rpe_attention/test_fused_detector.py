"""Fused attention in the detector, under torch.compile and on the command line."""

import itertools

import pytest
import torch

from models import build_model
from rpe_ops.irpe import get_rpe_config
from tests.helpers.commands import MAIN, RPE, TINY_MODEL, error_line, run_ok
from tests.models.rpe_attention.fused_cases import (
    DEVICE,
    HEADS,
    Case,
    layer_and_reference,
    needs_triton,
    randn,
    seed,
)

pytestmark = needs_triton


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
    case = Case(2, 3, heads=1, on="qkv", queries=(1, 4), skip=(1, 0))
    tensors = [t.requires_grad_() for t in case.tensors]
    maps = [*case.maps.queries, *case.maps.keys]
    arguments = (
        *tensors[:4], *case.buckets, tensors[4], *case.buckets, *case.buckets, maps, case.padding,
        seed(1), 0.5,
    )  # fmt: skip
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
def test_the_command_says_which_encoding_is_not_supported(tmp_path):
    line = error_line(
        MAIN, "--coco_path", tmp_path, "--attention", "fused", "--device", "cpu",
        "--backbone_weights", "none", "--enc_rpe2d=",
    )  # fmt: skip
    assert "--attention fused" in line and "no relative positions" in line


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from models.rpe_attention import RPEMultiheadAttention
from rpe_ops.irpe import get_rpe_config
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
