"""export_onnx.py: graphs of classifiers compute PyTorch's logits, or are refused."""

import copy
import json

import onnx
import onnxruntime
import pytest
import torch

from classification.classifier import load_classifier
from classification.tools import export_onnx
from tests.classification.tiny_deit import CLASSES, QKV, tiny_model, write_checkpoint
from tests.helpers.commands import run_ok
from tests.helpers.tool_runs import line_of, run_tool
from tests.tools.export_cases import writes_onnx
from tools.graph_export import writing
from tools.graph_export.files import load_torch

EXPORT = "classification/tools/export_onnx.py"
HEADS = {"embed_dim": 192, "num_heads": 3}  # which their names tell


def checkpoint_of(path, text=QKV, distilled=False, **options):
    model = tiny_model(text, distilled, **HEADS, **options)
    return write_checkpoint(path, model, text), model


def without_encoding(model, images):
    """Logits of a model whose tables are 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lookup_table" in name:
                parameter.zero_()
        return model(images)


SLOW = [(QKV, False), (QKV, True), ("", True), ("rpe-1.9-product-ctx-1-k", False)]
NIGHTLY = [
    "rpe-1.9-product-ctx-1-k", "rpe-2.0-cross-ctx-0-qv", "rpe-1.9-cross-bias-1-qk",
    "rpe-20-euc-ctx-1-k", "rpe-33-quant-ctx-0-kv", "rpe-2.0-quant-bias-0-q",
]  # fmt: skip


@writes_onnx
@pytest.mark.parametrize(
    ("text", "dynamic"),
    [
        *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW),
        *(pytest.param(text, True, marks=pytest.mark.nightly) for text in NIGHTLY),
    ],
)
def test_onnx_has_pytorchs_logits(tmp_path, text, dynamic):
    path, model = checkpoint_of(tmp_path / "c.pth", text, distilled=text == QKV and dynamic)
    out = tmp_path / "m.onnx"
    run = run_tool(export_onnx, path, "--output", out, *["--dynamic_size"] * dynamic)
    assert run.code == 0 and "largest differences" in run.out, run
    graph = onnx.load(out)
    onnx.checker.check_model(graph, full_check=True)
    assert {node.domain for node in graph.graph.node} == {""} and not graph.functions
    session = onnxruntime.InferenceSession(out)
    shape = session.get_inputs()[0].shape
    assert shape[:2] == ["batch", 3] and (shape[2:] == [32, 32]) is not dynamic
    sizes = [(3, (32, 32)), (1, (32, 32)), *([(2, (56, 24)), (2, (16, 40))] * dynamic)]
    for batch, size in sizes:
        images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(9))
        other = copy.deepcopy(model)
        other.set_input_size(img_size=size)
        with torch.no_grad():
            wanted = other(images)
        (found,) = session.run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=1e-4)
    if text:
        assert (without_encoding(other, images) - wanted).abs().max() > 1e-2


@pytest.mark.slow
@writes_onnx
def test_a_file_has_all_that_is_needed(tmp_path):
    """As a command: names and numbers from the metadata, images from 0 to 1."""
    path, model = checkpoint_of(tmp_path / "c.pth")
    out = tmp_path / "m.onnx"
    result = run_ok(EXPORT, path, "--output", out, "--normalize", "--opset", "18")
    assert result.stderr == "" and str(out) in result.stdout
    session = onnxruntime.InferenceSession(out)
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert about["names"] == CLASSES and about["image_size"] == [32, 32]
    assert about["mean"] == [0, 0, 0] and about["enc_rpe2d"] == QKV
    assert onnx.load(out).opset_import[0].version == 18
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        wanted = model(((pixels.movedim(1, -1) - mean) / std).movedim(-1, 1))
    (found,) = session.run(["logits"], {"images": pixels.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=1e-4)


def test_pytorchs_format(tmp_path):
    path, model = checkpoint_of(tmp_path / "c.pth", depth=1)
    out = tmp_path / "m.pt2"
    run = run_tool(export_onnx, path, "--output", out, "--format", "torch")
    assert run.code == 0 and "5 x 32 x 32" in run.out
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        wanted = model(images)
    torch.testing.assert_close(load_torch(out)({"images": images})["logits"], wanted)
    called = {str(n.target) for n in torch.export.load(out).graph.nodes}
    assert not any("rpe_ops" in name for name in called)  # it runs with PyTorch alone


@pytest.mark.slow
def test_a_graph_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    path, _ = checkpoint_of(tmp_path / "c.pth", depth=1)

    def load_damaged(file):
        run = load_torch(file)
        return lambda inputs: {"logits": run(inputs)["logits"] * 1.01}

    monkeypatch.setattr(writing, "load_torch", load_damaged)
    line = line_of(export_onnx, path, "--output", tmp_path / "m.pt2", "--format", "torch")
    assert "nothing is written" in line and "logits differ by" in line
    assert "at 1 x 32 x 32" in line
    assert [file.name for file in tmp_path.iterdir()] == ["c.pth"]


def test_differences_are_seen(tmp_path, capsys):
    path, _ = checkpoint_of(tmp_path / "c.pth")
    classifier = load_classifier(path, "cpu", dynamic_img_size=True)
    exportable = export_onnx.ExportableClassifier(classifier.model)

    def compare(change):
        def run(inputs):
            with torch.no_grad():
                return {"logits": change(exportable(**inputs)["logits"], inputs["images"])}

        export_onnx.compare_with_pytorch(classifier, exportable, run)

    compare(lambda logits, images: logits)
    assert "5 x 32 x 32             0.0e+00\n1 x 16 x 24" in capsys.readouterr().out
    for change, says in (
        (lambda logits, images: logits * torch.nan, "differ by nan"),
        (lambda logits, images: logits + (len(images) == 5), r"at 5 x 32 x 32"),
        (lambda logits, images: logits + (images.shape[2] == 56), r"at 2 x 56 x 40"),
        (lambda logits, images: logits[:, :4], r"logits are \(1, 4\)"),
    ):
        with pytest.raises(Exception, match=says):
            compare(change)


def test_mistakes_are_answered_with_one_line(checkpoint, tmp_path):
    (tmp_path / "there.pt2").write_text("something")
    out = ["--output", tmp_path / "m.pt2", "--format", "torch"]
    for given, says in (
        ([tmp_path / "none.pth", *out], "none.pth: no such checkpoint file"),
        ([checkpoint, *out], "plain.pth: a detector's checkpoint"),
        ([checkpoint, "--output", tmp_path / "there.pt2", "--format", "torch"], "exists"),
        ([checkpoint, "--output", tmp_path / "m.pt"], "end in .onnx"),
        ([checkpoint, *out, "--opset", "18"], "--opset is an option of ONNX"),
        ([tmp_path / "there.pt2", *out], "there.pt2: a text, not a checkpoint"),
    ):
        assert says in line_of(export_onnx, *given)
