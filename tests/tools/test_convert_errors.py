"""Folders and checkpoints that cannot be converted, and the messages."""

import re
import sys

import pytest
import torch

from tests.helpers.commands import error_line, run_ok
from tests.helpers.hf_folders import (
    TOOL,
    change_json,
    convert,
    safetensors,
    tensors_of,
    write_checkpoint,
)
from tools import convert as tool
from util.checkpoint import load_checkpoint
from util.errors import UserError


@pytest.mark.parametrize(
    "options, says",
    [
        (
            ["--enc_rpe2d", "rpe-2.0-product-ctx-1-k"],
            "positions (rpe-2.0-product-ctx-1-k)",
        ),
        (["--enc_rpe2d", "", "--dec_rpe", "box-log"], "positions (box-log)"),
        (["--masks"], "it has a mask head"),
        (["--pre_norm"], "(--pre_norm)"),
    ],
)
def test_models_that_transformers_cannot_be(args, tmp_path, options, says):
    path = write_checkpoint(tmp_path / "c.pth", args, *options)
    with pytest.raises(UserError) as error:
        convert(path, tmp_path / "hf")
    assert f"{path}: cannot become Hugging Face's DetrForObjectDetection: " in str(error.value)
    assert says in str(error.value)
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"model_type": "table-transformer"}, "its model_type is 'table-transformer'; only 'detr'"),
        ({"model_type": "removed"}, "its model_type is None"),
        ({"architectures": ["DetrForSegmentation"]}, "only DetrForObjectDetection"),
        ({"auxiliary_loss": True}, "auxiliary_loss is True, this project computes with False"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu'"),
        ({"d_model": 64}, "d_model is 64, its weights have 32"),
        ({"decoder_layers": 6}, "decoder_layers is 6, its weights have 3"),
        ({"encoder_ffn_dim": 16}, "encoder_ffn_dim is 16, its weights have 48"),
        ({"decoder_attention_heads": 8}, "decoder_attention_heads is 8, its weights have 4"),
        ({"encoder_attention_heads": "4"}, "encoder_attention_heads must be at least 1, is '4'"),
        ({"encoder_attention_heads": 5}, "--hidden_dim 32 must be a multiple of 4 and of --nheads"),
        ({"position_embedding_type": "learned"}, "position_embedding_type is 'learned'"),
        ({"backbone_config": {"downsample_in_bottleneck": True}}, "_in_bottleneck is True"),
        ({"dropout": 1.0}, "--dropout 1.0 must be below 1"),
    ],
    ids=str,
)  # fmt: skip
def test_folders_that_this_project_cannot_be(folder, tmp_path, changes, says):
    change_json(folder / "config.json", **changes)
    with pytest.raises(UserError) as error:
        convert(folder, tmp_path / "c.pth")
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "c.pth").exists()


@pytest.mark.parametrize(
    "name, dilation, config",
    [
        ("resnet50", False, {}),
        ("resnet50", True, {"dilation": True}),
        ("resnet101", False, {"backbone": "timm/resnet101.a1_in1k", "backbone_config": None}),
        ("resnet50", True, {"backbone_kwargs": {"output_stride": 16}}),
        ("resnet50", True, {"backbone_config": {"backbone": "resnet50", "output_stride": 16}}),
        ("resnet50", False, {"backbone_config": {"backbone": "resnet50"}, "dilation": True}),
        ("resnet50", None, {"backbone": "resnet50d"}),
        ("resnet50", None, {"backbone_config": {"backbone": "resnet50", "output_stride": 8}}),
    ],
    ids=str,
)
def test_what_is_said_of_a_backbone_of_timm(args, name, dilation, config):
    parsed = args("--backbone", name)
    if dilation is None:
        with pytest.raises(UserError, match=r"^c: its backbone"):
            tool.check_same_sizes(config, parsed, False, "c")
        return
    tool.check_same_sizes(config, parsed, False, "c")
    assert tool.options_from(config, {}, False, "c")["dilation"] is dilation
    assert tool.options_from(config, {}, True, "c")["dilation"] is False


def test_damaged_folders(folder, tmp_path):
    weights, config = folder / "model.safetensors", folder / "config.json"
    tensors, good = tensors_of(folder), config.read_text()
    name = "model.encoder.layers.1.self_attn.k_proj.bias"

    def fails():
        with pytest.raises(UserError) as error:
            convert(folder, tmp_path / "c.pth")
        assert "\n" not in str(error.value)
        return str(error.value)

    for content, says in (
        ({**tensors, "model.lm_head.weight": torch.zeros(3)}, "'model.lm_head.weight' is not"),
        ({k: v for k, v in tensors.items() if k != name}, "q_proj, k_proj and v_proj"),
        ({k: v for k, v in tensors.items() if "layernorm.bias" not in k}, "decoder.norm.bias"),
        ({**tensors, name: torch.full((32,), torch.nan)}, "numbers that are not finite"),
        ({**tensors, name: torch.zeros(16)}, "does not fit the model"),
        ({"a": torch.zeros(1)}, "'a' is not a tensor of a DetrForObjectDetection"),
        ({}, "not the weights of a DETR"),
    ):  # fmt: skip
        safetensors.save_file(content, weights)
        assert says in fails()
    weights.write_bytes(weights.read_bytes()[:-1] + b"x" * 100)
    assert "model.safetensors: cannot be read, copy it again" in fails()
    weights.unlink()
    assert "folder: has no model.safetensors" in fails()
    (folder / "model.safetensors.index.json").write_text("[]")
    assert "has no weight_map" in fails()
    for content, says in (("{", "cannot be read"), ("[]", "not the configuration of a model")):
        config.write_text(content)
        assert f"config.json: {says}" in fails()
    config.unlink()
    assert "config.json: no such file; a Hugging Face folder has config.json" in fails()
    config.write_text(good)
    torch.save([1, 2], folder / "pytorch_model.bin")
    (folder / "model.safetensors.index.json").unlink()
    assert "pytorch_model.bin: must contain tensors by name and nothing else" in fails()


def test_nothing_is_written_over(folder, args, tmp_path):
    path = write_checkpoint(tmp_path / "c.pth", args)
    with pytest.raises(UserError, match=r"c\.pth: exists; choose another TARGET or add --force"):
        convert(folder, path)
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"config\.json: exists; .* --force"):
        convert(path, folder)
    assert (folder / "model.safetensors").read_bytes() == before
    convert(path, folder, "--force")
    assert tensors_of(folder)["model.query_position_embeddings.weight"].shape == (8, 32)
    convert(folder, path, "--force")
    assert load_checkpoint(str(path)).keys() == {"model", "args", "classes", "version"}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is not a folder"):
        convert(path, tmp_path / "file", "--force")
    with pytest.raises(UserError, match=r"d\.pth: cannot be written"):
        convert(path, tmp_path / "file" / "d.pth")


def test_the_command_line(folder, tmp_path, monkeypatch):
    """Without transformers."""
    code = "import sys, runpy; sys.modules['transformers'] = None; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    result = run_ok("-c", code, TOOL, folder, tmp_path / "new" / "c.pth")
    assert "c.pth: resnet10, 2 + 3 layers of 32, 6 queries, 5 classes, image_" in result.stdout
    line = error_line(TOOL, folder, tmp_path / "other")
    assert "other: a folder becomes a checkpoint; give a TARGET that ends in .pth" in line
    for source, options, says in (
        (tmp_path / "none", [], "none: no such checkpoint file"),
        (folder / "model.safetensors", [], "a safetensors file, not a checkpoint; tools/"),
        (folder, ["--nheads", "4"], "--nheads is for checkpoints"),
    ):
        with pytest.raises(UserError, match=re.escape(says)):
            convert(source, tmp_path / "d.pth", *options)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match="safetensors is not installed: pip install safetensors"):
        convert(folder, tmp_path / "d.pth")
