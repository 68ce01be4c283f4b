"""Detectors from files of weights alone, of other kinds, and of newer versions."""

import pytest
import torch
import torchvision
from PIL import Image

from checkpoints.compatibility import MODEL_OPTIONS, saved_args
from checkpoints.infer_options import infer_options
from detector import load_detector
from models import build_model
from models.option_values import BACKBONES
from tests.helpers.commands import ROOT, TINY_MODEL, TINY_RUN, answer_of_main, error_line
from util import VERSION
from util.errors import UserError

TINY = [*TINY_MODEL, "--enc_rpe2d", "", "--nheads", "8", "--num_classes", "5"]


def write(path, args, *options, **changes):
    """A checkpoint with args, and one of the same weights without; their paths and the args."""
    torch.manual_seed(0)
    parsed = args(*TINY, *options)
    model, _, _ = build_model(parsed)
    state = model.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            value.add_(torch.randn_like(value) * 0.05).abs_()  # variances are positive
            if "running_" not in name:
                value.mul_(torch.randint(0, 2, value.shape) * 2 - 1)
    whole, bare = path / "whole.pth", path / changes.get("name", "bare.pth")
    torch.save({"model": state, "args": parsed}, whole)
    torch.save({"model": state}, bare)
    return whole, bare, parsed


def picture():
    torch.manual_seed(1)
    return Image.fromarray(torch.randint(0, 255, (40, 72, 3), dtype=torch.uint8).numpy())


def assert_same_detections(whole, bare, image_size=64, **options):
    found = [
        load_detector(path, "cpu", image_size=image_size, **given)(picture(), threshold=0)[0]
        for path, given in ((whole, {}), (bare, options))
    ]
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        if name != "names":
            assert torch.equal(found[1][name], value), name
    assert len(found[0]["scores"]) > 0


CASES = [
    ["--backbone", "resnet18", "--enc_layers", "3", "--dec_layers", "1", "--num_queries", "6"],
    ["--pre_norm", "--position_embedding", "learned", "--dim_feedforward", "40"],
    ["--masks", "--nheads", "4"],
    ["--masks", "--num_classes", "250", "--dataset_file", "coco_panoptic"],
    ["--backbone_weights", "imagenet", "--resume", "other.pth", "--hidden_dim", "64"],
    ["--enc_layers", "0"],
    ["--enc_rpe2d", "rpe-1.9-product-ctx-1-k", "--nheads", "4"],
    ["--enc_rpe2d", "rpe-2.5-product-ctx-0-qkv", "--nheads", "2"],
    ["--enc_rpe2d", "rpe-2.0-cross-ctx-1-kv", "--nheads", "4"],
    ["--enc_rpe2d", "rpe-3.0-cross-bias-0-qk", "--nheads", "4"],
    ["--enc_rpe2d", "rpe-3.0-product-bias-1-q"],
    ["--enc_rpe2d", "rpe-2.0-product-ctx-0-v", "--nheads", "4"],
    ["--enc_rpe2d", "rope-mixed", "--nheads", "4"],
    ["--enc_rpe2d", "cpb-log", "--nheads", "2", "--masks"],
]


@pytest.mark.parametrize("options", CASES, ids=" ".join)
def test_weights_tell_their_options(args, tmp_path, options):
    whole, bare, parsed = write(tmp_path, args, *options)
    found = vars(load_detector(bare, "cpu").args)
    for name in (*MODEL_OPTIONS, "backbone_weights", "dataset_file"):
        assert found[name] == getattr(parsed, name), name
    assert found.keys() >= vars(args()).keys() - {"rank", "world_size", "distributed"}
    assert_same_detections(whole, bare)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_is_known_by_its_blocks(args, name):
    with torch.device("meta"):
        model, _, _ = build_model(args(*TINY, "--backbone", name))
    assert infer_options(model.state_dict(), "bare.pth")[0].backbone == name


def test_what_shapes_do_not_tell_is_said_and_can_be_given(args, tmp_path, capsys):
    whole, bare, _ = write(tmp_path, args, "--nheads", "4")
    assert load_detector(bare, "cpu").args.nheads == 8
    (line,) = capsys.readouterr().out.splitlines()
    assert "bare.pth: it names no options; its weights are of resnet10, 2 + 2 layers" in line
    assert "assumed: nheads=8, dilation=False" in line
    assert_same_detections(whole, bare, nheads=4)
    assert "nheads" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--hidden_dim 32 must be .* --nheads 5"):
        load_detector(bare, nheads=5)
    with pytest.raises(UserError, match="made with --nheads 4, this command has --nheads 8"):
        load_detector(whole, nheads=8)
    with pytest.raises(TypeError, match="no option head_count"):
        load_detector(bare, head_count=4)


def test_dilation_is_in_the_name_or_given(args, tmp_path, capsys):
    options = ["--backbone", "resnet50", "--dilation"]
    whole, bare, _ = write(tmp_path, args, *options, name="detr-r50-dc5-f0fb7ef5.pth")
    assert load_detector(bare, "cpu").args.dilation
    assert "assumed: nheads=8, dilation=True" in capsys.readouterr().out
    renamed = bare.rename(tmp_path / "model-adc51.pth")
    assert not load_detector(renamed, "cpu").args.dilation
    assert_same_detections(whole, renamed, dilation=True)


@pytest.mark.parametrize("method", ["euc", pytest.param("quant", marks=pytest.mark.slow)])
def test_encodings_that_look_alike_have_to_be_named(args, tmp_path, method):
    text = f"rpe-2.5-{method}-ctx-1-k"
    whole, bare, _ = write(tmp_path, args, "--enc_rpe2d", text)
    with pytest.raises(UserError) as error:
        load_detector(bare)
    assert "11 buckets can be rpe-2.5-euc-ctx-1-k or rpe-2.5-quant-ctx-1-k" in str(error.value)
    assert "enc_rpe2d=" in str(error.value) and "tools/convert.py" in str(error.value)
    assert_same_detections(whole, bare, enc_rpe2d=text)
    with pytest.raises(UserError, match=r"enc_rpe2d 'rpe-2\.5-no-ctx-1-k': method"):
        load_detector(bare, enc_rpe2d="rpe-2.5-no-ctx-1-k")
    _, other, _ = write(tmp_path, args, "--enc_rpe2d", "rpe-5.0-product-ctx-1-k")
    with pytest.raises(UserError, match="441 buckets fit no published --enc_rpe2d; give"):
        load_detector(other)


@pytest.mark.parametrize("text", ["rope-axial", "rope-axial-20", "rope-axial-12345"])
def test_frequencies_tell_their_base(args, tmp_path, text, capsys):
    """They are saved though they are not trained."""
    options = ["--enc_rpe2d", text, "--nheads", "2"]
    whole, bare, parsed = write(tmp_path, args, *options)
    model, _, _ = build_model(parsed)
    name = "transformer.encoder.layers.{}.self_attn.rope.freqs"
    for path in (whole, bare):  # `write` has changed all weights
        content = torch.load(path, weights_only=False)
        for layer in range(2):
            content["model"][name.format(layer)] = model.state_dict()[name.format(layer)]
        torch.save(content, path)
    found = load_detector(bare, "cpu").args
    assert (found.enc_rpe2d, found.nheads) == (text, 2)
    assert "assumed: dilation=False" in capsys.readouterr().out
    assert_same_detections(whole, bare)
    content["model"][name.format(0)] = torch.tensor([1.0, 0.5, 0.5, 0.1])
    torch.save(content, bare)
    with pytest.raises(UserError, match=r"its rope.freqs are not base \*\* .*; give load_detector"):
        load_detector(bare, "cpu")
    for value in (torch.zeros(3, 3), torch.zeros(0), torch.tensor(1.0)):
        content["model"][name.format(0)] = value
        torch.save(content, bare)
        with pytest.raises(UserError, match=r"there is no transformer\.encoder.*rope\.freqs"):
            load_detector(bare, "cpu")


def test_weights_of_other_models(args, tmp_path):
    bare = write(tmp_path, args)[1]
    state = torch.load(bare)["model"]
    resnet = torchvision.models.resnet18(weights=None).state_dict()
    path = tmp_path / "other.pth"
    for content, says in (
        (resnet, "it has no 'model' but tensors such as 'conv1.weight'"),
        ({"model": resnet}, "not the weights of a DETR: there is no query_embed.weight, but 'conv"),
        ({"state_dict": resnet}, "it has no 'model'"),
        ({"model": {**state, "epoch": 3}}, r"model\['epoch'\] is 3, not a tensor"),
        ({"model": {**state, "class_embed.weight": torch.zeros(3)}}, "no class_embed.weight"),
        (
            {"model": {k: v for k, v in state.items() if "layer3" not in k}},
            "its backbone is none of resnet10, ",
        ),
        (
            {"model": {k: v for k, v in state.items() if "layers.1.norm1" not in k}},
            r"does not fit the model .*layers\.1\.norm1",
        ),
        (
            {"model": {**state, "transformer.level_embed": torch.zeros(4, 32)}},
            r"does not fit the model .*level_embed",
        ),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=says):
            load_detector(path)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_files_of_other_kinds(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "c.pth"
    safetensors.save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"c\.pth: a safetensors file.*tools/convert\.py"):
        load_detector(path)
    for text, shown in (
        ("version https://git-lfs.github.com/spec/v1\noid", "version https://git-lfs"),
        ("é" * 400, "éé"),  # of two bytes each, the last one that is read is cut
    ):
        path.write_text("x" * (text[0] == "é") + text)
        with pytest.raises(UserError, match=f"a text, not a checkpoint; it begins with '.?{shown}"):
            load_detector(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="not a whole checkpoint"):
        load_detector(path)
    with pytest.raises(UserError, match=r"a folder, not a checkpoint; tools/convert\.py"):
        load_detector(tmp_path)
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with pytest.raises(UserError, match="a TorchScript program, not a checkpoint"):
        load_detector(path)
    line = error_line(ROOT / "tools" / "predict.py", "--resume", path, ROOT / "docs/img/demo.jpg")
    assert "TorchScript" in line


# ---- checkpoints of newer versions ----


def bumped(place):
    numbers = [int(number) for number in VERSION.split(".")]
    numbers[place] += 1
    return ".".join(map(str, numbers))


def test_a_newer_version_is_refused_and_a_patch_is_not(args, tmp_path, shapes):
    whole, _, _ = write(tmp_path, args)
    content = torch.load(whole, weights_only=False)
    for version in (bumped(0), bumped(1)):
        torch.save({**content, "version": version}, whole)
        says = f"made by version {version} of this project, this is {VERSION}: update it"
        with pytest.raises(UserError, match=says):
            load_detector(whole)
        for option in (["--resume"], ["--masks", "--frozen_weights"]):
            line = answer_of_main(*TINY_RUN, "--coco_path", shapes, *option, whole)
            assert f"{option[-1]} {whole}: {says}" in line
    with pytest.raises(UserError, match="update it"):
        saved_args({"version": bumped(0), "args": "of a kind to come"}, "c.pth")
    for version in (VERSION, bumped(2), "0.9", bumped(2) + ".dev1+abc"):
        torch.save({**content, "version": version}, whole)
        load_detector(whole, "cpu")


@pytest.mark.parametrize(
    "version", [None, 99, 99.9, "", "x", "99", "99.", "99.x", ".99.1", "v99.0", "9" * 6000 + ".0",
                "99.0\n", b"99.0.0", [99, 0, 0], {"major": 99}, torch.ones(3)],
    ids=lambda version: repr(version)[:20],
)  # fmt: skip
def test_what_is_no_version_is_of_other_code(args, version):
    saved = args()
    weights = {"enough": torch.zeros(2 * 10**7, dtype=torch.float16)}
    content = {"model": weights, "args": saved, "version": version}
    assert vars(saved_args(content, "c.pth")) == vars(saved)
