"""tools/export_onnx.py: what it writes, what it checks and what it refuses."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch.torch_version import TorchVersion

from detector import load_detector
from tests.helpers.commands import ROOT, error_line, run_ok
from tests.tools.export_cases import NAMES, assert_finds_the_same, write_checkpoint, writes_onnx
from tools import export_onnx
from tools.graph_export import writing
from tools.graph_export.files import load_torch
from util.errors import UserError

EXPORT = "tools/export_onnx.py"


@pytest.mark.slow
@writes_onnx
def test_a_file_has_all_that_is_needed(args, tmp_path):
    """Exported and used: names and sizes from the metadata, images from 0 to 1."""
    checkpoint = write_checkpoint(tmp_path / "c.pth", args)
    out = tmp_path / "model.onnx"
    result = run_ok(EXPORT, checkpoint, "--output", out, "--normalize", "--opset", "18")
    assert "largest differences" in result.stdout and str(out) in result.stdout
    assert result.stderr == ""
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    session = onnxruntime.InferenceSession(out)
    assert [given.name for given in session.get_inputs()] == ["images"]
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert about["names"] == {str(label): name for label, name in NAMES.items()}
    assert about["image_size"] == 64 and about["mean"] == [0, 0, 0] and about["std"] == [1, 1, 1]
    assert about["options"]["enc_rpe2d"] == "rpe-2.0-product-ctx-1-k"
    assert onnx.load(out).opset_import[0].version == 18

    detector = load_detector(checkpoint, "cpu")
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    image = (image * 255).round() / 255
    with torch.no_grad():
        wanted = detector.model(detector.prepare([image]).samples)
    logits, boxes = session.run(None, {"images": image[None].numpy()})
    assert abs(boxes - wanted["pred_boxes"].numpy()).max() < 1e-4
    assert abs(logits - wanted["pred_logits"].numpy()).max() < 1e-3

    before = out.read_bytes()
    line = error_line(EXPORT, checkpoint, "--output", out)
    assert "model.onnx: exists" in line and "--force" in line and out.read_bytes() == before


@pytest.mark.slow
@writes_onnx
def test_the_lines_in_the_docs_find_what_the_detector_finds(args, tmp_path, monkeypatch):
    """They run as they stand, but for the threshold: these weights are random."""
    checkpoint = write_checkpoint(tmp_path / "c.pth", args)
    run_ok(EXPORT, checkpoint, "--output", tmp_path / "model.onnx", "--normalize")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((130, 90)).save(tmp_path / "photo.jpg")
    detector = load_detector(checkpoint, "cpu")
    (wanted,) = detector([str(tmp_path / "photo.jpg")], threshold=0)
    threshold = wanted["scores"][:-1].median().item() + 1e-4
    (wanted,) = detector([str(tmp_path / "photo.jpg")], threshold=threshold)
    assert len(wanted["names"]) > 1
    blocks = (ROOT / "docs" / "inference.md").read_text().split("```")
    (code,) = (block for block in blocks if "onnxruntime.InferenceSession" in block)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code.removeprefix("python").replace("score > 0.5", f"score > {threshold}"), names)
    found = sorted(names["found"], key=lambda one: -one[1])
    assert [name for name, _, _ in found] == wanted["names"]
    for (_, score, box), sure, corners in zip(
        found, wanted["scores"].tolist(), wanted["boxes"].tolist(), strict=True
    ):
        assert score == pytest.approx(sure, abs=2e-3)
        assert box.tolist() == pytest.approx(corners, abs=0.5)


@pytest.fixture
def command(monkeypatch):
    """Runs the tool in this process, which saves seconds."""

    def run(*options):
        monkeypatch.setattr("sys.argv", ["export_onnx.py", *map(str, options)])
        export_onnx.main()

    return run


@pytest.mark.slow
def test_a_graph_that_finds_something_else_is_refused(args, tmp_path, command, monkeypatch):
    def load_damaged(path):
        run = load_torch(path)

        def damaged(inputs):
            found = run(inputs)
            return {**found, "pred_boxes": found["pred_boxes"] + 0.002}

        return damaged

    checkpoint = write_checkpoint(tmp_path / "c.pth", args)
    options = [checkpoint, "--output", tmp_path / "model.pt2", "--format", "torch", "--mask_input"]
    with monkeypatch.context() as patch:
        patch.setattr(writing, "load_torch", load_damaged)
        with pytest.raises(UserError, match=r"is wrong: boxes differ by 2\.0e-03.* at 1 x 64 x 85"):
            command(*options)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pth"]
    command(*options)
    assert_finds_the_same(load_detector(checkpoint, "cpu"), load_torch(tmp_path / "model.pt2"))


def test_differences_are_seen():
    wanted = {"pred_logits": torch.tensor([[[0.0, 1.0, 0.5]]]), "pred_boxes": torch.rand(1, 1, 4)}
    wanted["pred_masks"] = torch.ones(1, 1, 8, 8)
    assert export_onnx.differences(wanted, wanted) == []
    for name, value, says in (
        ("pred_boxes", wanted["pred_boxes"] * torch.nan, "boxes differ by nan"),
        ("pred_logits", torch.tensor([[[0.0, 0.4, 0.5]]]), "1 of 1 top labels"),
        ("pred_logits", wanted["pred_logits"] * torch.nan, "top labels"),
        ("pred_masks", wanted["pred_masks"].tril() - 0.5, "masks differ in 43.8%"),
    ):
        (fault,) = export_onnx.differences({**wanted, name: value}, wanted)
        assert says in fault
    nearly = torch.tensor([[[0.0, 0.9999, 1.0]]])
    wanted["pred_logits"] = torch.tensor([[[0.0, 1.0, 0.9999]]])
    assert export_onnx.differences({**wanted, "pred_logits": nearly}, wanted) == []


@writes_onnx
def test_mistakes_are_answered_with_one_line(args, tmp_path, command):
    checkpoint = write_checkpoint(tmp_path / "c.pth", args)
    content = torch.load(checkpoint, weights_only=False)
    content["args"].enc_rpe2d, content["version"] = "rpe-2.0-spiral-ctx-1-k", "9.0"
    torch.save(content, tmp_path / "newer.pth")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.pth")
    (tmp_path / "there.pt2").write_text("something")
    out = ["--output", tmp_path / "model.onnx"]
    for options, says in (
        ([tmp_path / "none.pth", *out], "none.pth: no such checkpoint file"),
        ([tmp_path / "foreign.pth", *out], "foreign.pth: not a detector's checkpoint"),
        ([tmp_path / "newer.pth", *out], "made by version 9.0"),
        ([checkpoint, "--output", tmp_path / "there.pt2", "--format", "torch"], "exists"),
        ([checkpoint, "--output", tmp_path / "model.pt"], "end in .onnx"),
        ([checkpoint, "--output", tmp_path / "no" / "model.onnx"], "not a file in a folder"),
        ([checkpoint, "--output", tmp_path / "m.pt2", "--format", "torch", "--opset", 18], "ONNX"),
    ):
        with pytest.raises(UserError, match=says) as error:
            command(*options)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "model.onnx").exists()
    assert "--opset: must be" in error_line(EXPORT, checkpoint, *out, "--opset", "11")


def test_without_what_onnx_needs_it_says_what_to_install(command, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", TorchVersion("2.6.0"))
        with pytest.raises(UserError, match=r"needs PyTorch 2\.7.*is 2\.6\.0.*--format torch"):
            command("c.pth")
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not there
    with pytest.raises(UserError, match=r"pip install onnxscript.*--format torch"):
        command("c.pth")
    assert "examples:" in run_ok(EXPORT, "--help").stdout
