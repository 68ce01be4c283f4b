"""Detectors that are exported find what PyTorch finds, on images of any size."""

import json
import sys

import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion
from torchvision.ops import FrozenBatchNorm2d

from detector import load_detector
from models import build_model
from tests.helpers.commands import TINY_RUN, error_line, run_ok
from tools import export_onnx
from tools.graph_export.detector import (
    ExportableDetector,
    export_detector,
    input_shapes,
    metadata,
    side_limits,
)
from tools.graph_export.files import (
    load_onnx,
    load_torch,
    quiet,
    save_onnx,
    save_torch,
)
from util.errors import UserError
from util.misc import nested_tensor_from_tensor_list

EXPORT = "tools/export_onnx.py"
NAMES = {1: "disc", 2: "Würfel"}
SIZES = [(300, 500), (200, 96), (49, 40)]  # up to maps of 10 x 16, some offsets beyond gamma


def write_checkpoint(path, args, *options):
    """Of a detector that is not trained, but in which everything counts."""
    torch.manual_seed(0)
    small = ["--enc_layers", "1", "--dec_layers", "1", "--num_classes", "6"]
    parsed = args(*TINY_RUN, *small, *options)
    model, _, _ = build_model(parsed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.1)
    for name, parameter in model.named_parameters():
        if "lookup_table" in name:
            nn.init.normal_(parameter, std=2)
        elif "in_proj_weight" in name:
            parameter.data *= 4  # attention that is not almost uniform
    torch.save({"model": model.state_dict(), "args": parsed, "classes": NAMES}, path)
    return path


def pictures(batch, height, width):
    """The second one is smaller, and padded."""
    generator = torch.Generator().manual_seed(height)
    sizes = [(height, width), (height * 3 // 4, width * 2 // 3)][:batch]
    return [torch.randn(3, *size, generator=generator) for size in sizes]


def exported(detector, path, mask_input=True, normalize=False):
    """What runs the file in ONNX or PyTorch's format, by its suffix."""
    exportable = ExportableDetector(detector.model, normalize).eval()
    shapes = input_shapes(side_limits(detector), mask_input)
    about = metadata(detector, normalize)
    with quiet():
        program = export_detector(exportable, shapes)
        if path.suffix == ".pt2":
            save_torch(program, path, about)
            return load_torch(path)
        outputs = ["pred_logits", "pred_boxes", "pred_masks"][: 2 + detector.args.masks]
        save_onnx(program, path, outputs, about, shapes)
    return load_onnx(path)


def assert_finds_the_same(detector, run, sizes=SIZES):
    for batch in (1, 2):
        for size in sizes:
            samples = nested_tensor_from_tensor_list(pictures(batch, *size))
            with torch.no_grad():
                wanted = detector.model(samples)
            found = run({"images": samples.tensors, "mask": samples.mask})
            off = (found["pred_boxes"] - wanted["pred_boxes"]).abs().max()
            assert off < 1e-3, (batch, size, off)
            labels = (found["pred_logits"].argmax(-1), wanted["pred_logits"].argmax(-1))
            assert torch.equal(*labels), (batch, size)
            torch.testing.assert_close(
                found["pred_logits"], wanted["pred_logits"], atol=1e-3, rtol=1e-3
            )
            if "pred_masks" in wanted:
                masks = wanted["pred_masks"]
                assert found["pred_masks"].shape == masks.shape
                torch.testing.assert_close(found["pred_masks"], masks, atol=1e-2, rtol=1e-2)


def encoding_counts(detector):
    """Without its relative positions the detector would answer otherwise than the test allows."""
    samples = nested_tensor_from_tensor_list(pictures(2, *SIZES[0]))
    with torch.no_grad():
        wanted = detector.model(samples)["pred_boxes"]
        for name, parameter in detector.model.named_parameters():
            if "lookup_table" in name:
                parameter.zero_()
        return (detector.model(samples)["pred_boxes"] - wanted).abs().max() > 2e-3


SLOW = {
    "product-ctx-qkv": ["--enc_rpe2d", "rpe-2.0-product-ctx-0-qkv", "--masks"],
    "plain": ["--enc_rpe2d", ""],
    "product-ctx-k": ["--enc_rpe2d", "rpe-2.0-product-ctx-1-k"],
    "cross-bias-qk": ["--enc_rpe2d", "rpe-1.9-cross-bias-0-qk", "--position_embedding", "learned"],
    "frozen-norm": ["--backbone_weights", "imagenet", "--resume", "weights come from there"],
}
NIGHTLY = {
    "product-ctx-qkv-shared": ["--enc_rpe2d", "rpe-2.5-product-ctx-1-qkv", "--pre_norm"],
    "product-bias-q": ["--enc_rpe2d", "rpe-3.0-product-bias-1-q"],
    "cross-ctx-kv": ["--enc_rpe2d", "rpe-2.0-cross-ctx-1-kv"],
    "euc-ctx-k": ["--enc_rpe2d", "rpe-1.5-euc-ctx-0-k"],
    "euc-bias-qk": ["--enc_rpe2d", "rpe-2.0-euc-bias-1-qk"],
    "quant-ctx-qv": ["--enc_rpe2d", "rpe-1.9-quant-ctx-1-qv"],
    "quant-bias-k": ["--enc_rpe2d", "rpe-2.0-quant-bias-0-k"],
    "dilation": ["--backbone", "resnet50", "--dilation"],
    "dilation-masks-learned": [
        "--backbone", "resnet50", "--dilation", "--masks", "--position_embedding", "learned"
    ],
}  # fmt: skip


writes_onnx = pytest.mark.skipif(
    torch.__version__ < (2, 7), reason="PyTorch's exporter before 2.7 cannot"
)


@writes_onnx
@pytest.mark.parametrize(
    "options",
    [
        *(pytest.param(options, id=name, marks=pytest.mark.slow) for name, options in SLOW.items()),
        *(
            pytest.param(options, id=name, marks=pytest.mark.nightly)
            for name, options in NIGHTLY.items()
        ),
    ],
)
def test_onnx_finds_the_same(options, args, tmp_path):
    detector = load_detector(write_checkpoint(tmp_path / "c.pth", args, *options), "cpu")
    run = exported(detector, tmp_path / "model.onnx")
    assert_finds_the_same(detector, run)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert not model.functions and {imported.domain for imported in model.opset_import} == {""}
    assert {node.domain for node in model.graph.node} == {""}
    if detector.args.enc_rpe2d:
        assert encoding_counts(detector)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--enc_rpe2d", "rpe-2.0-cross-ctx-1-qkv"], id="cross-ctx-qkv"),
        pytest.param(["--masks"], id="masks"),
    ],
)
def test_pytorchs_format_finds_the_same(options, args, tmp_path):
    detector = load_detector(write_checkpoint(tmp_path / "c.pth", args, *options), "cpu")
    run = exported(detector, tmp_path / "model.pt2")
    assert_finds_the_same(detector, run)


def test_bucket_ids_have_the_numbers_and_not_the_logarithm(args, tmp_path):
    """With ratio 1.5 distance 6 lies half way between two buckets: rounding would decide."""
    checkpoint = write_checkpoint(tmp_path / "c.pth", args, "--enc_rpe2d", "rpe-1.5-cross-bias-1-k")
    exportable = ExportableDetector(load_detector(checkpoint, "cpu").model).eval()
    with quiet():
        program = export_detector(exportable, input_shapes((33, None), False))
    called = {str(node.target) for node in program.graph.nodes}
    assert any("arange" in name for name in called)
    assert not any("log" in name or "rpe_ops" in name for name in called)


# ---- the command line ----


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
        patch.setattr(export_onnx, "load_torch", load_damaged)
        with pytest.raises(UserError, match=r"refused.*boxes differ by 2\.0e-03.* at 1 x 64 x 85"):
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
        ([checkpoint, "--output", tmp_path / "no" / "model.onnx"], "no such folder"),
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
