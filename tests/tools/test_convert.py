"""Detectors from Hugging Face's folders and back: same bits, same detections."""

import json
import re

import pytest
import torch

from checkpoints.compatibility import COCO_NAMES, MODEL_OPTIONS
from detector import load_detector
from tests.helpers.hf_folders import (
    NAMES,
    RESNET_10,
    RESNET_18,
    RESNET_50,
    assert_same_outputs,
    assert_same_tensors,
    change_json,
    convert,
    from_pretrained,
    safetensors,
    tensors_of,
    write_checkpoint,
    write_hugging_face,
)
from util.checkpoint import load_checkpoint
from util.errors import UserError

# ---- from there, and back ----


@pytest.mark.parametrize(
    "backbone, resnet, options",
    [
        ("resnet10", RESNET_10, {}),
        ("resnet18", RESNET_18, {"position_embedding_type": "learned"}),
        pytest.param(
            "resnet50",
            RESNET_50,
            {"encoder_attention_heads": 2, "decoder_attention_heads": 2},
            marks=pytest.mark.slow,
        ),
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
    """Return timm's name of a part of a ResNet, from that of transformers."""
    name = name.replace("embedder.embedder.convolution", "conv1")
    name = name.replace("embedder.embedder.normalization", "bn1")
    name = re.sub(
        r"encoder\.stages\.(\d)\.layers\.", lambda stage: f"layer{int(stage[1]) + 1}.", name
    )
    name = re.sub(r"layer\.(\d)\.convolution", lambda part: f"conv{int(part[1]) + 1}", name)
    name = re.sub(r"layer\.(\d)\.normalization", lambda part: f"bn{int(part[1]) + 1}", name)
    name = name.replace("shortcut.convolution", "downsample.0")
    return name.replace("shortcut.normalization", "downsample.1")


@pytest.mark.slow
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


@pytest.mark.slow
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
    with pytest.raises(UserError, match=r"or --enc_rpe2d to tools/convert\.py"):
        convert(bare, tmp_path / "whole.pth")
    convert(bare, tmp_path / "whole.pth", "--enc_rpe2d", text)
    whole = load_checkpoint(str(tmp_path / "whole.pth"))
    assert_same_tensors(state, whole["model"])
    assert (whole["args"].enc_rpe2d, whole["args"].nheads) == (text, 4)
    load_detector(tmp_path / "whole.pth", "cpu")
