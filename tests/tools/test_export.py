"""Detectors that are exported find what PyTorch finds, on images of any size."""

import onnx
import pytest
import torch

from detector import load_detector
from tests.tools.export_cases import (
    SIZES,
    assert_finds_the_same,
    pictures,
    write_checkpoint,
    writes_onnx,
)
from tools.graph_export.detector import (
    ExportableDetector,
    export_detector,
    input_shapes,
    metadata,
    side_limits,
)
from tools.graph_export.files import load_onnx, load_torch, quiet, save_onnx, save_torch
from util.misc import nested_tensor_from_tensor_list


def exported(detector, path, mask_input=True, normalize=False):
    """Export a detector; returns a function that runs the file, of the format of its suffix."""
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


def enlarge_tables(detector):
    """Let the RPE of an untrained model count: a bias moves its boxes by less than is compared."""
    with torch.no_grad():
        for name, parameter in detector.model.named_parameters():
            if "lookup_table" in name:
                parameter *= 10


def encoding_counts(detector):
    """Return whether the detector without its RPE would differ by more than the test allows."""
    samples = nested_tensor_from_tensor_list(pictures(2, *SIZES[0]))
    with torch.no_grad():
        wanted = detector.model(samples)["pred_boxes"]
        for name, value in detector.model.state_dict().items():
            parts = ("lookup_table", "rope.freqs", "cpb.mlp.2", "references")
            if any(part in name for part in parts) and not name.endswith(".relative"):
                value.zero_()
        return (detector.model(samples)["pred_boxes"] - wanted).abs().max() > 2e-3


SLOW = {
    "product-ctx-qkv": ["--enc_rpe2d", "rpe-2.0-product-ctx-0-qkv", "--masks"],
    "plain": ["--enc_rpe2d", ""],
    "product-ctx-k": ["--enc_rpe2d", "rpe-2.0-product-ctx-1-k"],
    "cross-bias-qk": ["--enc_rpe2d", "rpe-1.9-cross-bias-0-qk", "--position_embedding", "learned"],
    "rope-mixed": ["--enc_rpe2d", "rope-mixed"],
    "boxes": ["--enc_rpe2d", "", "--dec_rpe", "box-log-relation", "--dec_layers", "2", "--masks"],
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
    "rope-axial": ["--enc_rpe2d", "rope-axial"],
    "cpb-log": ["--enc_rpe2d", "cpb-log"],
    "dilation": ["--backbone", "resnet50", "--dilation"],
    "dilation-masks-learned": [
        "--backbone", "resnet50", "--dilation", "--masks", "--position_embedding", "learned"
    ],
}  # fmt: skip


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
    enlarge_tables(detector)
    run = exported(detector, tmp_path / "model.onnx")
    assert_finds_the_same(detector, run)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert not model.functions and {imported.domain for imported in model.opset_import} == {""}
    assert {node.domain for node in model.graph.node} == {""}
    if detector.args.enc_rpe2d or detector.args.dec_rpe:
        assert encoding_counts(detector)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--enc_rpe2d", "rpe-2.0-cross-ctx-1-qkv"], id="cross-ctx-qkv"),
        pytest.param(["--enc_rpe2d", "rope-axial"], id="rope-axial", marks=pytest.mark.nightly),
        pytest.param(["--enc_rpe2d", "rope-mixed"], id="rope-mixed", marks=pytest.mark.nightly),
        pytest.param(["--enc_rpe2d", "cpb-log"], id="cpb-log"),
        pytest.param(["--masks"], id="masks"),
        pytest.param(["--dec_rpe", "box-linear-relation", "--dec_layers", "2"], id="boxes"),
    ],
)
def test_pytorchs_format_finds_the_same(options, args, tmp_path):
    detector = load_detector(write_checkpoint(tmp_path / "c.pth", args, *options), "cpu")
    run = exported(detector, tmp_path / "model.pt2")
    assert_finds_the_same(detector, run)


@writes_onnx
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--enc_rpe2d", "rpe-2.0-product-ctx-0-qkv", "--masks"], id="qkv-masks"),
        pytest.param(
            ["--enc_rpe2d", "rpe-1.9-cross-bias-0-qk"], id="cross", marks=pytest.mark.nightly
        ),
        pytest.param(["--enc_rpe2d", "rope-mixed"], id="rope", marks=pytest.mark.nightly),
        pytest.param(["--enc_rpe2d", "cpb-log"], id="cpb", marks=pytest.mark.nightly),
        pytest.param(["--enc_rpe2d", "", "--dec_rpe", "box-log-relation"], id="boxes"),
    ],
)
def test_openvino_finds_the_same(options, args, tmp_path):
    """OpenVINO's CPU plugin, told to compute in float32: some processors would take bfloat16."""
    openvino = pytest.importorskip("openvino")
    detector = load_detector(write_checkpoint(tmp_path / "c.pth", args, *options), "cpu")
    enlarge_tables(detector)
    exported(detector, tmp_path / "model.onnx")
    accurate = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", accurate)

    def run(inputs):
        found = compiled({name: value.numpy() for name, value in inputs.items()})
        return {output.any_name: torch.from_numpy(value) for output, value in found.items()}

    assert_finds_the_same(detector, run)
    assert encoding_counts(detector)


def test_bucket_ids_have_the_numbers_and_not_the_logarithm(args, tmp_path):
    """With ratio 1.5 distance 6 lies half way between two buckets: rounding would decide."""
    checkpoint = write_checkpoint(tmp_path / "c.pth", args, "--enc_rpe2d", "rpe-1.5-cross-bias-1-k")
    exportable = ExportableDetector(load_detector(checkpoint, "cpu").model).eval()
    with quiet():
        program = export_detector(exportable, input_shapes((33, None), False))
    called = {str(node.target) for node in program.graph.nodes}
    assert any("arange" in name for name in called)
    assert not any("log" in name or "rpe_ops" in name for name in called)
