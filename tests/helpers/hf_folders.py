"""Folders of Hugging Face's DETR, written and read by transformers."""

import contextlib
import io
import json

import pytest
import torch

from models import build_model
from tests.helpers.commands import TINY_MODEL
from tools import convert as tool
from util.misc import nested_tensor_from_tensor_list

safetensors = pytest.importorskip("safetensors.torch")
TOOL = "tools/convert.py"
PLAIN = [*TINY_MODEL, "--enc_rpe2d", ""]
RESNET_10 = {"layer_type": "basic", "depths": [1, 1, 1, 1], "hidden_sizes": [64, 128, 256, 512]}
RESNET_18 = {**RESNET_10, "depths": [2, 2, 2, 2]}
RESNET_50 = {}  # transformers' default
NAMES = {1: "disc", 3: "Dreieck ▲"}


def convert(source, target, *options):
    """Run tools/convert.py in this process; returns what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        tool.main([str(source), str(target), *options])
    return printed.getvalue()


def shuffle_weights(model):
    """Set random weights and batch-norm statistics, so that outputs differ by query and image."""
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.dim() == 1:
            value.add_(torch.randn_like(value) * 0.2)
        elif value.dim() > 1:
            value.normal_(std=(3 / value[0].numel()) ** 0.5)


def write_hugging_face(folder, resnet, **options):
    """Write the folder of a model that transformers has made; returns the folder."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    labels = {0: "N/A", **{i: NAMES.get(i, f"class {i}") for i in range(1, 5)}}
    config = transformers.DetrConfig(**{
        "use_timm_backbone": False,
        "backbone_config": transformers.ResNetConfig(**resnet, out_features=["stage4"]),
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "num_queries": 6,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "id2label": labels, "dropout": 0.05,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "bbox_cost": 4,
        "eos_coefficient": 0.25, **options,
    })  # fmt: skip
    model = transformers.DetrForObjectDetection(config)
    shuffle_weights(model)
    model.save_pretrained(folder)
    return folder


def from_pretrained(folder):
    """Load a folder with transformers; no tensor may be missing or left over."""
    transformers = pytest.importorskip("transformers")
    model, info = transformers.DetrForObjectDetection.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values()), info
    return model.eval()


@torch.no_grad()
def assert_same_outputs(hugging_face, detector):
    """Assert equal logits and boxes on a batch with images padded in both directions."""
    torch.manual_seed(1)
    images = [torch.randn(3, *size) for size in ((120, 200), (170, 90), (64, 64))]
    batch = nested_tensor_from_tensor_list(images)
    wanted = hugging_face(batch.tensors, (~batch.mask).long())
    found = detector.model(batch)
    # Queries and images have to differ, or the comparison would say nothing.
    assert wanted.logits.std(0).max() > 0.01 and wanted.logits.std(1).max() > 0.01
    torch.testing.assert_close(found["pred_logits"], wanted.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["pred_boxes"], wanted.pred_boxes, atol=1e-4, rtol=1e-4)


def assert_same_tensors(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert other[name].dtype == value.dtype and torch.equal(other[name], value), name


def tensors_of(folder):
    return safetensors.load_file(folder / "model.safetensors")


def change_json(path, **changes):
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v != "removed"}))


def write_checkpoint(path, args, *options, **content):
    torch.manual_seed(0)
    parsed = args(*PLAIN, "--num_classes", "5", *options)
    model, _, _ = build_model(parsed)
    shuffle_weights(model)
    content = {"classes": NAMES, **content}
    torch.save({"model": model.state_dict(), "args": parsed, **content}, path)
    return path
