"""Detectors from Hugging Face's folders and back: same bits, same detections."""

import contextlib
import io
import json
import re
import shutil
import sys

import pytest
import torch
from conftest import TINY_MODEL, error_line, run_ok

from models import build_model, load_detector
from models.class_names import COCO_NAMES
from models.compatibility import MODEL_OPTIONS
from tools import convert as tool
from util.checkpoint import load_checkpoint
from util.errors import UserError
from util.misc import nested_tensor_from_tensor_list

safetensors = pytest.importorskip("safetensors.torch")
TOOL = "tools/convert.py"
PLAIN = [*TINY_MODEL, "--enc_rpe2d", ""]
RESNET_10 = {"layer_type": "basic", "depths": [1, 1, 1, 1], "hidden_sizes": [64, 128, 256, 512]}
RESNET_18 = {**RESNET_10, "depths": [2, 2, 2, 2]}
RESNET_50 = {}  # transformers' default
NAMES = {1: "disc", 3: "Dreieck ▲"}


def convert(source, target, *options):
    """The tool in this process; what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        tool.convert(tool.get_args_parser().parse_args([str(source), str(target), *options]))
    return printed.getvalue()


def shuffle_weights(model):
    """Weights with which each query and image has outputs of its own; other batch norm, too."""
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.dim() == 1:
            value.add_(torch.randn_like(value) * 0.2)
        elif value.dim() > 1:
            value.normal_(std=(3 / value[0].numel()) ** 0.5)


def write_hugging_face(folder, resnet, **options):
    """A folder as transformers writes it, of a model that it made."""
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
    """transformers' model; each tensor must have found its place."""
    transformers = pytest.importorskip("transformers")
    model, info = transformers.DetrForObjectDetection.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values()), info
    return model.eval()


@torch.no_grad()
def assert_same_outputs(hugging_face, detector):
    """Logits and boxes of a batch whose images are padded in both directions."""
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


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_hugging_face(tmp_path_factory.mktemp("hf") / "tiny", RESNET_10)


@pytest.fixture
def folder(written, tmp_path):
    """A copy to be changed."""
    return shutil.copytree(written, tmp_path / "folder")


# ---- from there, and back ----


@pytest.mark.parametrize(
    "backbone, resnet, options",
    [
        ("resnet10", RESNET_10, {}),
        ("resnet18", RESNET_18, {"position_embedding_type": "learned"}),
        ("resnet50", RESNET_50, {"encoder_attention_heads": 2, "decoder_attention_heads": 2}),
    ],
)
def test_a_folder_of_transformers(tmp_path, backbone, resnet, options):
    folder = write_hugging_face(tmp_path / "hf", resnet, **options)
    printed = convert(folder, tmp_path / "c.pth")
    assert f"c.pth: {backbone}, 2 + 3 layers of 32, 6 queries, 5 classes" in printed
    detector = load_detector(tmp_path / "c.pth", "cpu")
    model = from_pretrained(folder)
    assert_same_outputs(model, detector)
    args = detector.args
    assert (args.backbone, args.dilation, args.dropout) == (backbone, False, 0.05)
    assert args.position_embedding == options.get("position_embedding_type", "sine")
    assert args.nheads == options.get("encoder_attention_heads", 4)
    assert (args.set_cost_bbox, args.set_cost_giou, args.eos_coef) == (4, 2, 0.25)
    assert detector.names == {1: "disc", 2: "class 2", 3: "Dreieck ▲", 4: "class 4"}

    convert(tmp_path / "c.pth", tmp_path / "back")
    assert_same_tensors(tensors_of(folder), tensors_of(tmp_path / "back"))
    again = from_pretrained(tmp_path / "back")
    assert_same_outputs(again, detector)
    for name in ("id2label", "d_model", "bbox_cost", "eos_coefficient", "position_embedding_type"):
        assert getattr(again.config, name) == getattr(model.config, name)


def timm_name(name):
    """Of a ResNet's part, by what transformers' own calls it."""
    name = name.replace("embedder.embedder.convolution", "conv1")
    name = name.replace("embedder.embedder.normalization", "bn1")
    name = re.sub(
        r"encoder\.stages\.(\d)\.layers\.", lambda stage: f"layer{int(stage[1]) + 1}.", name
    )
    name = re.sub(r"layer\.(\d)\.convolution", lambda part: f"conv{int(part[1]) + 1}", name)
    name = re.sub(r"layer\.(\d)\.normalization", lambda part: f"bn{int(part[1]) + 1}", name)
    name = name.replace("shortcut.convolution", "downsample.0")
    return name.replace("shortcut.normalization", "downsample.1")


def test_a_folder_with_a_backbone_of_timm(tmp_path):
    """As DETR's own, which transformers 4 has written."""
    folder = write_hugging_face(tmp_path / "hf", RESNET_50)
    model = from_pretrained(folder)
    tensors = {timm_name(name): value for name, value in tensors_of(folder).items()}
    names = tensors.keys()
    assert "model.backbone.conv_encoder.model.layer4.2.bn3.running_var" in names
    assert "model.backbone.conv_encoder.model.conv1.weight" in names
    assert not any("stages" in name for name in names)
    counters = {  # DETR's own files have some
        name.replace("weight", "num_batches_tracked"): torch.tensor(0)
        for name in names
        if name.endswith("downsample.1.weight")
    }
    safetensors.save_file({**tensors, **counters}, folder / "model.safetensors")
    change_json(
        folder / "config.json", backbone="resnet50", use_timm_backbone="removed",
        backbone_config="removed", max_position_embeddings=1024, scale_embedding=False,
    )  # fmt: skip
    convert(folder, tmp_path / "c.pth")
    detector = load_detector(tmp_path / "c.pth", "cpu")
    assert_same_outputs(model, detector)
    convert(tmp_path / "c.pth", tmp_path / "back", "--timm")
    assert_same_tensors(tensors, tensors_of(tmp_path / "back"))
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["use_timm_backbone"] and config["backbone"] == "resnet50"
    convert(tmp_path / "c.pth", tmp_path / "native")
    assert_same_outputs(from_pretrained(tmp_path / "native"), detector)


def test_the_names_inside_transformers_5(folder, tmp_path):
    model = from_pretrained(folder)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    before = tensors_of(folder)
    assert any(".o_proj." in name for name in state.keys() - before.keys())
    safetensors.save_file(state, folder / "model.safetensors")
    convert(folder, tmp_path / "c.pth")
    convert(tmp_path / "c.pth", tmp_path / "back")
    assert_same_tensors(before, tensors_of(tmp_path / "back"))


def test_learned_positions_of_transformers_4(tmp_path):
    options = {"position_embedding_type": "learned"}
    folder = write_hugging_face(tmp_path / "hf", RESNET_10, **options)
    new, old = "model.position_embedding.", "model.backbone.position_embedding."
    tensors = tensors_of(folder)
    assert sum(new in name for name in tensors) == 2
    safetensors.save_file(
        {name.replace(new, old): value for name, value in tensors.items()},
        folder / "model.safetensors",
    )
    convert(folder, tmp_path / "c.pth")
    convert(tmp_path / "c.pth", tmp_path / "back")
    assert_same_tensors(tensors, tensors_of(tmp_path / "back"))


def test_tensors_in_several_files_and_in_bin_files(folder, tmp_path):
    tensors = tensors_of(folder)
    convert(folder, tmp_path / "one.pth")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"a": names[::2], "b": names[1::2]}
    for part, inside in halves.items():
        content = {name: tensors[name] for name in inside}
        safetensors.save_file(content, folder / f"{part}.safetensors")
        torch.save(content, folder / f"{part}.bin")
    torch.save(tensors, folder / "pytorch_model.bin")
    convert(folder, tmp_path / "bin.pth")
    (folder / "pytorch_model.bin").unlink()
    for suffix, index in (
        ("bin", "pytorch_model.bin.index.json"),
        ("safetensors", "model.safetensors.index.json"),
    ):
        places = {name: f"{part}.{suffix}" for part, inside in halves.items() for name in inside}
        (folder / index).write_text(json.dumps({"weight_map": places}))
        convert(folder, tmp_path / f"{suffix}s.pth")
    one = load_checkpoint(str(tmp_path / "one.pth"))["model"]
    for name in ("bin", "bins", "safetensorss"):
        assert_same_tensors(one, load_checkpoint(str(tmp_path / f"{name}.pth"))["model"])

    (folder / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"b\.safetensors: no such file"):
        convert(folder, tmp_path / "c.pth")
    (folder / index).write_text(json.dumps({"weight_map": {"x": "../one.safetensors"}}))
    with pytest.raises(UserError, match=r"'\.\./one\.safetensors' is not in its folder"):
        convert(folder, tmp_path / "c.pth")


def test_half_precision_stays_what_it_is(folder, tmp_path):
    tensors = {name: value.half() for name, value in tensors_of(folder).items()}
    safetensors.save_file(tensors, folder / "model.safetensors")
    convert(folder, tmp_path / "c.pth")
    assert load_detector(tmp_path / "c.pth", "cpu").model.class_embed.weight.dtype == torch.float32
    convert(tmp_path / "c.pth", tmp_path / "back")
    assert_same_tensors(tensors, tensors_of(tmp_path / "back"))
    assert json.loads((tmp_path / "back" / "config.json").read_text())["dtype"] == "float16"


# ---- from here, and back ----


def write_checkpoint(path, args, *options, **content):
    torch.manual_seed(0)
    parsed = args(*PLAIN, "--num_classes", "5", *options)
    model, _, _ = build_model(parsed)
    shuffle_weights(model)
    content = {"classes": NAMES, **content}
    torch.save({"model": model.state_dict(), "args": parsed, **content}, path)
    return path


def test_a_checkpoint_of_main(args, tmp_path):
    """One that was trained from scratch: its batch norm counts, and frozen batch norm does not."""
    path = write_checkpoint(
        tmp_path / "c.pth", args, "--image_size", "640", "--dropout", "0.2", "--set_cost_giou",
        "2.5", "--bbox_loss_coef", "3.0", optimizer={}, lr_scheduler={}, epoch=3,
    )  # fmt: skip
    detector = load_detector(path, "cpu")
    convert(path, tmp_path / "hf")
    model = from_pretrained(tmp_path / "hf")
    assert_same_outputs(model, detector)
    assert model.config.id2label == {0: "N/A", 1: "disc", 2: "N/A", 3: "Dreieck ▲", 4: "N/A"}
    assert model.config.dropout == model.config.attention_dropout == 0.2
    assert model.config.bbox_loss_coefficient == 3 and not model.config.auxiliary_loss

    convert(tmp_path / "hf", tmp_path / "back.pth")
    back = load_checkpoint(str(tmp_path / "back.pth"))
    before = load_checkpoint(str(path))["model"]
    counters = {name for name in before if name.endswith("num_batches_tracked")}
    assert len(counters) == 12
    kept = {name: value for name, value in before.items() if name not in counters}
    assert_same_tensors(kept, back["model"])
    assert back.keys() == {"model", "args", "classes", "version"} and back["classes"] == NAMES
    for name in (*MODEL_OPTIONS, "image_size", "dropout", "bbox_loss_coef"):
        assert getattr(back["args"], name) == getattr(detector.args, name), name
    assert back["args"].resume == "" and not back["args"].eval
    again = load_detector(tmp_path / "back.pth", "cpu")
    image = torch.rand(3, 50, 80)
    (one,), (other,) = detector(image, threshold=0), again(image, threshold=0)
    torch.testing.assert_close(one["boxes"], other["boxes"], atol=1e-3, rtol=1e-4)
    assert one["names"] == other["names"]


def test_images_are_prepared_alike(args, tmp_path):
    transformers = pytest.importorskip("transformers")
    path = write_checkpoint(tmp_path / "c.pth", args, "--image_size", "96")
    convert(path, tmp_path / "hf")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    images = [torch.randint(0, 255, (3, *size), dtype=torch.uint8) for size in ((90, 70), (40, 99))]
    wanted = load_detector(path, "cpu").prepare(images).samples
    found = processor(images, return_tensors="pt")
    assert torch.equal(found["pixel_mask"].bool(), ~wanted.mask)
    difference = (found["pixel_values"] - wanted.tensors).abs()
    assert difference.max() < 0.05  # rounded to whole values of 255


@pytest.mark.parametrize(
    "options, backbone, stride",
    [
        (["--backbone", "resnet50", "--dilation"], "resnet50", 16),
        (["--backbone", "resnext50_32x4d"], "resnext50_32x4d", None),
    ],
)
def test_backbones_that_only_timm_has(args, tmp_path, options, backbone, stride):
    transformers = pytest.importorskip("transformers")
    path = write_checkpoint(tmp_path / "c.pth", args, *options)
    convert(path, tmp_path / "hf")
    config = transformers.DetrConfig.from_pretrained(tmp_path / "hf").backbone_config
    assert (config.model_type, config.backbone) == ("timm_backbone", backbone)
    assert config.output_stride == stride
    convert(tmp_path / "hf", tmp_path / "back.pth")
    before, back = (load_checkpoint(str(tmp_path / name)) for name in ("c.pth", "back.pth"))
    assert back["args"].dilation == before["args"].dilation
    kept = {k: v for k, v in before["model"].items() if not k.endswith("num_batches_tracked")}
    assert_same_tensors(kept, back["model"])


def test_coco_names_where_a_checkpoint_has_none(args, tmp_path):
    path = write_checkpoint(tmp_path / "c.pth", args, "--num_classes", "91", classes=None)
    convert(path, tmp_path / "hf")
    labels = json.loads((tmp_path / "hf" / "config.json").read_text())["id2label"]
    assert len(labels) == 91 and labels["0"] == labels["12"] == "N/A" and labels["90"]
    convert(tmp_path / "hf", tmp_path / "back.pth")
    assert load_detector(tmp_path / "back.pth", "cpu").names == COCO_NAMES


def test_weights_alone_become_a_checkpoint(args, tmp_path):
    text = "rpe-2.0-quant-ctx-1-k"
    path = write_checkpoint(tmp_path / "c.pth", args, "--enc_rpe2d", text)
    bare = tmp_path / "bare.pth"
    state = load_checkpoint(str(path))["model"]
    torch.save({"model": state}, bare)
    with pytest.raises(UserError, match=r"with --enc_rpe2d to tools/convert\.py"):
        convert(bare, tmp_path / "whole.pth")
    convert(bare, tmp_path / "whole.pth", "--enc_rpe2d", text)
    whole = load_checkpoint(str(tmp_path / "whole.pth"))
    assert_same_tensors(state, whole["model"])
    assert (whole["args"].enc_rpe2d, whole["args"].nheads) == (text, 4)
    load_detector(tmp_path / "whole.pth", "cpu")


# ---- mistakes ----


@pytest.mark.parametrize(
    "options, says",
    [
        (
            ["--enc_rpe2d", "rpe-2.0-product-ctx-1-k"],
            "positions (rpe-2.0-product-ctx-1-k)",
        ),
        (["--masks"], "it has a mask head"),
        (["--pre_norm"], "(--pre_norm)"),
    ],
)
def test_models_that_transformers_cannot_be(args, tmp_path, options, says):
    path = write_checkpoint(tmp_path / "c.pth", args, *options)
    with pytest.raises(UserError) as error:
        convert(path, tmp_path / "hf")
    assert f"{path}: Hugging Face's DetrForObjectDetection cannot be it: " in str(error.value)
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
        ({"encoder_attention_heads": "4"}, "encoder_attention_heads is '4'"),
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
        ({**tensors, "model.lm_head.weight": torch.zeros(3)}, "'model.lm_head.weight' is no"),
        ({k: v for k, v in tensors.items() if k != name}, "q_proj, k_proj and v_proj"),
        ({k: v for k, v in tensors.items() if "layernorm.bias" not in k}, "decoder.norm.bias"),
        ({**tensors, name: torch.full((32,), torch.nan)}, "numbers that are not finite"),
        ({**tensors, name: torch.zeros(16)}, "does not fit the model"),
        ({"a": torch.zeros(1)}, "'a' is no tensor of a DetrForObjectDetection"),
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
    for content, says in (("{", "cannot be read"), ("[]", "not the description of a model")):
        config.write_text(content)
        assert f"config.json: {says}" in fails()
    config.unlink()
    assert "config.json: no such file; a Hugging Face folder has config.json" in fails()
    config.write_text(good)
    torch.save([1, 2], folder / "pytorch_model.bin")
    (folder / "model.safetensors.index.json").unlink()
    assert "pytorch_model.bin: not only tensors by name" in fails()


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
    with pytest.raises(UserError, match="file: is no folder"):
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
