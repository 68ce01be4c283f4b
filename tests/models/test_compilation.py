"""--compile: the same model, whatever the size of the images, compiled once."""

import json

import pytest
import torch
from torch._dynamo.utils import counters

from models import build_model
from tests.helpers.commands import MAIN, TINY_MODEL, TINY_RUN, error_line, run_ok
from training.start.compile import compile_model
from util.misc import nested_tensor_from_tensor_list

SIZES = [(160, 224), (224, 160), (192, 192), (175, 211), (233, 321), (256, 129)]


def test_without_a_compiler_nothing_is_started(tmp_path):
    line = error_line(
        MAIN, *TINY_RUN, "--compile", "--coco_path", tmp_path, env={"CXX": "no-such-compiler"}
    )
    assert "--compile" in line and "no-such-compiler" in line and "CXX" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone_weights", "dec_rpe"),
    [
        ("none", "box-log-relation"),
        pytest.param("none", "", marks=pytest.mark.nightly),
        pytest.param("imagenet", "", marks=pytest.mark.nightly),
    ],
)
def test_compiled_once_for_all_sizes_with_the_same_results(args, backbone_weights, dec_rpe):
    """Trained batch norm ("none") and frozen batch norm, in training and evaluation."""
    options = [*TINY_MODEL, "--dropout", "0", "--resume", "nothing is fetched then"]
    options += ["--dec_rpe", dec_rpe]
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build_model(args(*options, "--backbone_weights", backbone_weights))[0])
    plain, compiled = models
    compile_model(compiled)
    assert list(compiled.state_dict()) == list(plain.state_dict())

    torch._dynamo.reset()
    counters.clear()
    graphs = None
    for height, width in SIZES:
        images = [torch.randn(3, height, width), torch.randn(3, height - 9, width)]
        samples = nested_tensor_from_tensor_list(images)
        for training in (True, False):
            outputs = []
            for model in models:
                model.train(training).zero_grad()
                with torch.set_grad_enabled(training):
                    out = model(samples)
                if training:
                    (out["pred_logits"].square().sum() + out["pred_boxes"].sum()).backward()
                outputs.append((out["pred_logits"], out["pred_boxes"]))
            torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-3)
            if training:
                for (name, one), (_, other) in zip(
                    plain.named_parameters(), compiled.named_parameters(), strict=True
                ):
                    if "references" in name and name.endswith(".2.bias"):
                        continue  # the same for all keys: its gradient is rounding alone
                    if one.grad is None or other.grad is None:
                        assert one.grad is other.grad, name
                    else:
                        # In norm: rounding makes single ReLUs flip.
                        off = (one.grad - other.grad).norm().item()
                        assert off <= 0.02 * one.grad.norm().item() + 1e-6, name
        graphs = graphs or counters["stats"]["unique_graphs"]
        # Two parts, two modes; older versions of PyTorch cut the decoder into more.
        assert counters["stats"]["unique_graphs"] == graphs <= 20


@pytest.mark.nightly
def test_a_compiled_run_learns_and_is_evaluated_without(shapes, tmp_path):
    common = [MAIN, "--coco_path", shapes, *TINY_RUN]
    train = ["--output_dir", tmp_path, "--epochs", "2", "--lr", "1e-3"]
    run_ok(*common, *train, "--compile", "--amp", "bf16", timeout=600)
    lines = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert lines[1]["train_loss"] < lines[0]["train_loss"]
    run_ok(*common, "--eval", "--resume", tmp_path / "checkpoint.pth")
