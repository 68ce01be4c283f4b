"""tools/cost.py as a command: classifiers, checkpoints, what it writes and what it refuses."""

import json
import re
import sys

import pytest

from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.tool_runs import line_of, run_tool
from tools import cost

# The detector whose parameters and products test_cost.py has worked out by hand.
COMMAND = [
    "--backbone", "resnet10_tiny", "--hidden_dim", "32", "--nheads", "4", "--enc_layers", "2",
    "--dec_layers", "2", "--dim_feedforward", "64", "--num_queries", "8", "--num_classes", "5",
    "--enc_rpe2d", "rpe-2.0-product-ctx-1-k",
]  # fmt: skip


# ---- classifiers ----


def test_classifiers():
    pytest.importorskip("timm")
    plain = run_tool(cost, "--model", "deit_small_patch16_224", "--no_timing")
    assert plain.code == 0 and "22,050,664" in plain.out
    run = run_tool(cost, "--model", "deit_small_patch16_224_ctx_product_50_shared_k", "--no_timing")
    rows = {line.split("  ")[0]: line.split()[-2:] for line in run.out.splitlines() if line}
    assert rows["total"] == ["22,089,064", "4,644.3"]
    # 16 * 16 * 3 * 384 + 384; 1 + 197 vectors; 1000 * 384 + 1000 and 2 * 384.
    assert rows["patch embedding"][0] == "295,296" and rows["norm and head"][0] == "385,768"
    assert rows["tokens and positions"] == ["76,032", "0.0"]
    assert "of which encoding" in run.out and "38,400" in run.out  # 12 * 64 * 50
    given = ["--model", "deit_small_patch16_224", "--enc_rpe2d", "rpe-1.9-product-ctx-1-k"]
    other = run_tool(cost, *given, "--no_timing", "--size", "224", "224", "--size", "64", "320")
    assert other.code == 0 and "22,089,064" in other.out and "MMAC, 64 x 320" in other.out


def test_classifiers_need_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "classification"]:
        monkeypatch.delitem(sys.modules, name)
    line = line_of(cost, "--model", "deit_tiny_patch16_224")
    assert line.startswith("error: classification needs timm") and "pip install" in line


@pytest.mark.parametrize(
    "given, words",
    [
        (["--size", "224", "230"], "--size 224 230: deit_tiny_patch16_224 takes sides that are"),
        (["--hidden_dim", "64"], "--hidden_dim is of detectors"),
        (["--masks"], "--masks is of detectors"),
        (["--resume", "c.pth"], "--model is a classifier, a checkpoint is of a detector"),
        (["--model", "deit_huge"], "--model deit_huge: no such classifier; there are deit_tiny_"),
        (["--enc_rpe2d", "rope-axial"], "'rope-axial': is for the detector's encoder alone"),
    ],
)
def test_options_that_do_not_fit_a_classifier(given, words):
    pytest.importorskip("timm")
    line = line_of(cost, "--model", "deit_tiny_patch16_224", *given, "--no_timing")
    assert words in line


# ---- the command ----


def test_a_checkpoint_and_the_same_options_cost_the_same(args, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "c.pth", args, *COMMAND)
    given = ["--no_timing", "--size", "64", "96", "--output"]
    assert run_tool(cost, "--resume", checkpoint, *given, tmp_path / "a.json").code == 0
    run = run_tool(cost, *COMMAND, "--backbone_weights", "none", *given, tmp_path / "b.json")
    assert run.code == 0, run.err
    a, b = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert a == b
    (size,) = a["sizes"]
    assert (size["height"], size["width"], size["measured"]) == (64, 96, None)
    assert size["multiply_accumulates"][-1] == {"name": "total", "inside": None, "value": 14662144}
    assert {"name": "encoding", "inside": "encoder", "value": 1296} in a["parameters"]
    assert a["trained_parameters"] == 358_954 + 1_440
    assert re.search(r"^encoder +18,384 +0\.6\n  of which encoding +1,296 +0\.1$", run.out, re.M)
    assert "encoding\n" not in run.out and "mask head" not in run.out

    line = line_of(cost, *COMMAND, *given, tmp_path / "a.json")
    assert line.endswith("a.json: exists; choose another --output or add --force")
    assert run_tool(cost, *COMMAND, *given, tmp_path / "a.json", "--force").code == 0
    assert json.loads((tmp_path / "a.json").read_text()) != b  # frozen batch norm


@pytest.mark.parametrize(
    "given, words",
    [
        (["--output", "no/such/folder.json"], "--output no/such/folder.json: not a file in"),
        (["--resume", "no.pth"], "no.pth: no such checkpoint file"),
        (["--hidden_dim", "30"], "--hidden_dim 30 must be a multiple of 4"),
        (["--size", "8", "64"], "--size: must be a whole number from 16 to 10000, is 8"),
        (["--position_embedding", "learned", "--size", "64", "900"], "the feature map has 4 x 57"),
        (["--attention", "fused", "--enc_rpe2d", "cpb-log"], "--attention fused: its kernels look"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(given, words, monkeypatch):
    monkeypatch.setattr(cost, "measure_apart", None)  # before anything takes long
    assert words in line_of(cost, *COMMAND, "--device", "cpu", *given)
