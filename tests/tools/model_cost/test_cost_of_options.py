"""What a forward pass of one image costs, by the options of a training."""

import argparse
import importlib
import json

import pytest
from torch import nn
from torchvision.models import ResNet50_Weights

from arguments import get_args_parser
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.tool_runs import run_tool
from tools import cost
from tools.comparison.commands import COMMANDS
from tools.model_cost.of_options import classifier_cost, detector_cost
from util.checkpoint import load_checkpoint

SMALL = [
    "--backbone", "resnet10_tiny", "--hidden_dim", "32", "--nheads", "4", "--enc_layers", "2",
    "--dec_layers", "2", "--dim_feedforward", "64", "--num_queries", "8", "--num_classes", "5",
]  # fmt: skip
# Of an image of 48 x 64, whose maps have 24 x 32, 12 x 16, 6 x 8 and twice 3 x 4 pixels.
BACKBONE = (
    3 * 16 * 49 * 24 * 32
    + 2 * 16 * 16 * 9 * 12 * 16
    + ((16 + 32) * 32 * 9 + 16 * 32) * 6 * 8
    + ((32 + 64) * 64 * 9 + 32 * 64 + (64 + 128) * 128 * 9 + 64 * 128) * 3 * 4
)
ENCODER = 2 * (4 * 12 * 32 * 32 + 2 * 12 * 12 * 32 + 2 * 12 * 32 * 64)
DECODER = 2 * (
    (6 * 8 + 2 * 12) * 32 * 32 + 2 * 8 * 8 * 32 + 2 * 8 * 12 * 32 + 2 * 8 * 32 * 64
)  # fmt: skip
HEADS = 2 * 8 * (32 * 6 + 2 * 32 * 32 + 32 * 4)
DETECTOR = BACKBONE + 12 * 128 * 32 + ENCODER + DECODER + HEADS


def detector_args(*options: str) -> argparse.Namespace:
    return get_args_parser().parse_args([*SMALL, *options])


def classifier_args(*options: str) -> argparse.Namespace:
    pytest.importorskip("timm")
    return COMMANDS["classification/main.py"].parse(options, "here")


def test_a_detector():
    args = detector_args("--image_size", "48", "--backbone_weights", "no/such/file")
    assert detector_cost(args) == (48, 64, DETECTOR)
    args.enc_rpe2d, args.finetune = "rpe-2.0-product-ctx-1-k", "no/such/file"
    assert detector_cost(args) == (48, 64, DETECTOR + 2 * 12 * 32 * 81)


def test_it_is_what_cost_py_says_of_a_checkpoint(args, tmp_path):
    path = write_checkpoint(tmp_path / "c.pth", args, *SMALL, "--image_size", "48")
    run = run_tool(cost, "--resume", path, "--no_timing", "--output", tmp_path / "cost.json")
    assert run.code == 0, run.err
    (size,) = json.loads((tmp_path / "cost.json").read_text())["sizes"]
    assert (size["height"], size["width"], size["multiply_accumulates"][-1]["value"]) == (
        detector_cost(load_checkpoint(str(path))["args"])
    )


def test_a_classifier_with_other_options_than_published():
    args = classifier_args(
        "--model", "deit_tiny_patch16_224", "--input-size", "30", "--num-classes", "10",
        "--model-kwargs", "patch_size=5", "embed_dim=64", "depth=3", "num_heads=4",
        "--enc_rpe2d", "rpe-1.9-product-ctx-1-k",
    )  # fmt: skip
    # 6 x 6 patches and the class token, which has a bucket besides 7 x 7.
    block = 12 * 37 * 64 * 64 + 2 * 37 * 37 * 64 + 37 * 64 * 50
    assert classifier_cost(args) == (30, 30, 36 * 3 * 25 * 64 + 3 * block + 64 * 10)


def test_a_model_of_timm_costs_what_torchvision_says_of_its_own(monkeypatch):
    args = classifier_args("--model", "resnet50", "--num-classes", "1000", "--pretrained")
    timm = importlib.import_module("timm")
    create = timm.create_model

    def create_without_weights(name, pretrained, **options):
        assert not pretrained  # which would be a download
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", create_without_weights)
    found = classifier_cost(args)
    wanted = ResNet50_Weights.IMAGENET1K_V1.meta["_ops"]  # in thousands of millions
    assert found[:2] == (224, 224) and round(found.multiply_accumulates / 1e9, 3) == wanted


def test_what_cannot_be_counted_is_left_out(monkeypatch):
    learned = detector_args("--image_size", "1216", "--position_embedding", "learned")
    assert COMMANDS["main.py"].image_cost(learned) is None  # 50 columns have positions

    class NeedsValues(nn.Module):
        def forward(self, images):
            return images * images.sum().item()

    args = classifier_args("--num-classes", "10")
    run = importlib.import_module("classification.run")
    monkeypatch.setattr(run, "build_model", lambda args: NeedsValues())
    assert COMMANDS["classification/main.py"].image_cost(args) is None
