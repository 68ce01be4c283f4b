"""Checkpoints: formats that exist, files that are broken, writes that fail."""

import argparse
import hashlib
import io
import pathlib
import pickle
import random
from collections import OrderedDict

import pytest
import torch

from argument_checks import check_files, check_model_options
from checkpoints.compatibility import check_same_model, load_weights
from models import build_model
from tests.helpers.commands import RPE, TINY_MODEL, TINY_RUN
from training.output_dir import OutputDir
from util.checkpoint import load_checkpoint, save_checkpoint
from util.errors import UserError


def published(output_dir) -> dict:
    """Write a checkpoint as the published code does."""
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    return {
        "model": layer.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 200).state_dict(),
        "epoch": 149,
        "args": argparse.Namespace(lr=1e-4, enc_rpe2d=RPE, output_dir=output_dir, gpu=0),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("output_dir", ["./output", pathlib.PosixPath("/checkpoint/jobs/1")])
def test_published_checkpoints_are_read(tmp_path, zipped, output_dir):
    path = tmp_path / "published.pth"
    wanted = published(output_dir)
    torch.save(wanted, path, _use_new_zipfile_serialization=zipped)
    read = load_checkpoint(str(path))
    assert read.keys() == wanted.keys()
    assert torch.equal(read["model"]["weight"], wanted["model"]["weight"])
    assert vars(read["args"]) == {**vars(wanted["args"]), "output_dir": read["args"].output_dir}
    assert str(read["args"].output_dir) == str(output_dir)


@pytest.mark.parametrize("name", [b"cpathlib\nPosixPath", b"cpathlib._local\nPosixPath",
                                  b"cpathlib\nWindowsPath"])  # fmt: skip
def test_paths_of_other_platforms_and_pythons_are_read(tmp_path, name):
    path = tmp_path / "paths.pth"
    torch.save({"args": pathlib.PurePosixPath("/a/b")}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    written = next(n for n in (b"cpathlib\nPurePosixPath", b"cpathlib._local\nPurePosixPath")
                   if n in content)  # fmt: skip
    path.write_bytes(content.replace(written, name))
    assert [str(part) for part in load_checkpoint(str(path))["args"].parts][-2:] == ["a", "b"]


class RunsCode:
    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_by_name(tmp_path, capsys, zipped):
    path = tmp_path / "hostile.pth"
    torch.save({"model": RunsCode()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"hostile\.pth.*holds (builtins\.)?print.*--trust_checkp"):
        load_checkpoint(str(path))
    assert "never" not in capsys.readouterr().out
    load_checkpoint(str(path), trust=True)
    assert "never" in capsys.readouterr().out


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_part_of_a_checkpoint_is_refused(tmp_path, share, zipped):
    path = tmp_path / "part.pth"
    torch.save(published("out"), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"part\.pth: not a") as error:
        load_checkpoint(str(path))
    assert "\n" not in str(error.value)


def test_a_flipped_bit_is_noticed_or_without_effect(tmp_path):
    """Some bytes of a zip archive have no meaning: they align others."""
    path = tmp_path / "flipped.pth"
    wanted = published("out")
    torch.save(wanted, path)
    good = path.read_bytes()
    noticed = 0
    for seed in range(150):
        flips = random.Random(seed)
        content = bytearray(good)
        content[flips.randrange(len(content))] ^= 1 << flips.randrange(8)
        path.write_bytes(content)
        try:
            read = load_checkpoint(str(path))
        except UserError as error:
            assert "\n" not in str(error)
            noticed += 1
        else:
            assert in_bytes(read) == in_bytes(wanted)
    assert noticed > 50


def in_bytes(content: dict) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_other_files_are_refused(tmp_path):
    for name, content in (("text", b"hello"), ("zip", b"PK\x03\x04" + bytes(50)),
                          ("pickle", pickle.dumps({1: OrderedDict})[:-3])):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            load_checkpoint(str(tmp_path / name))
    with pytest.raises(UserError, match="no such"):
        load_checkpoint(str(tmp_path / "nothing"))


def test_a_failed_write_leaves_the_last_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pth"
    save_checkpoint({"epoch": 1}, path)

    class Full:
        """Fails in the middle of being written, as a full disk does."""

        def __reduce__(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"checkpoint\.pth.*No space left"):
        save_checkpoint({"weights": torch.zeros(1000), "then": Full()}, path)
    assert load_checkpoint(str(path)) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pth"]


ENOUGH = {
    "weights": torch.zeros(2 * 10**7, dtype=torch.float16)
}  # of as many numbers as any model here


def test_a_checkpoint_of_another_model_names_both_values(args):
    mine = args(*TINY_RUN, "--resume", "c.pth")
    other = args(*TINY_RUN, "--enc_rpe2d", "rpe-1.9-cross-ctx-1-qk")
    with pytest.raises(UserError, match=r"rpe-1\.9-cross-ctx-1-qk.*rpe-2\.0-product-ctx-1-k"):
        check_same_model({"model": ENOUGH, "args": other}, mine)
    for option, value in (("--nheads", 8), ("--pre_norm", None), ("--backbone", "resnet18")):
        changed = args(*TINY_RUN, option, *[value] * (value is not None))
        with pytest.raises(UserError, match=f"made with {option}"):
            check_same_model({"model": ENOUGH, "args": changed}, mine)
    check_same_model({"model": ENOUGH, "args": args(*TINY_RUN)}, mine)
    same = args(*TINY_RUN, "--enc_rpe2d", "rpe-2-product-ctx-1-k")  # as 2.0
    check_same_model({"model": ENOUGH, "args": same}, mine)
    plain = args(*TINY_RUN)
    del plain.enc_rpe2d  # as DETR's own checkpoints
    with pytest.raises(UserError, match=r"made with --enc_rpe2d ''.*rpe-2\.0-product-ctx-1-k"):
        check_same_model({"model": ENOUGH, "args": plain}, mine)
    check_same_model({"model": {}}, mine)  # without args, as DETR's own model files
    with pytest.raises(UserError, match="no 'model'"):
        check_same_model({"state_dict": {}}, mine)


def test_training_on_needs_the_same_kind_of_backbone(args):
    frozen = args(*TINY_RUN, "--resume", "c.pth", "--backbone_weights", "imagenet")
    checkpoint = {"model": ENOUGH, "args": args(*TINY_RUN)}
    with pytest.raises(UserError, match="--backbone_weights none"):
        check_same_model(checkpoint, frozen)
    frozen.eval = True
    check_same_model(checkpoint, frozen)


def test_trained_and_frozen_batch_norm_exchange_weights(args):
    """A run from scratch is evaluated without --backbone_weights, and the other way round."""
    torch.manual_seed(0)
    scratch, _, _ = build_model(args(*TINY_MODEL))
    scratch([torch.randn(3, 64, 64)])  # moves the running statistics
    frozen, _, _ = build_model(
        args(*TINY_MODEL, "--backbone_weights", "imagenet", "--resume", "c.pth")
    )
    load_weights(frozen, {"model": scratch.state_dict()}, "c.pth")
    again, _, _ = build_model(args(*TINY_MODEL))
    load_weights(again, {"model": frozen.state_dict()}, "c.pth")
    images = [torch.randn(3, 64, 96)]
    outputs = [model.eval()(images)["pred_logits"] for model in (scratch, frozen, again)]
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs[2], outputs[0], atol=1e-4, rtol=1e-4)


def test_weights_that_do_not_fit_name_a_tensor(args):
    model, _, _ = build_model(args(*TINY_MODEL))
    state = model.state_dict()
    del state["class_embed.bias"]
    with pytest.raises(UserError, match=r"c\.pth.*class_embed\.bias"):
        load_weights(model, {"model": state}, "c.pth")


def test_backbone_weights_from_a_file(args, tmp_path):
    import torchvision

    resnet = torchvision.models.resnet18(weights=None)
    path = tmp_path / "resnet18.pth"
    torch.save(resnet.state_dict(), path)
    options = ["--backbone", "resnet18", "--hidden_dim", "32", "--backbone_weights", path]
    model, _, _ = build_model(args(*options))
    assert torch.equal(model.backbone[0].body.layer3[0].conv1.weight, resnet.layer3[0].conv1.weight)
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="does not fit resnet18"):
        build_model(args(*options))
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="not a state_dict"):
        build_model(args(*options))


def test_imagenet_weights_come_from_torchvisions_address(args, monkeypatch, tmp_path, server):
    """They are fetched when training starts from them, and only then, into its own cache."""
    import torchvision

    real = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, server.folder / "new")
    digest = hashlib.sha256((server.folder / "new").read_bytes()).hexdigest()
    name = f"resnet18-{digest[:8]}.pth"
    (server.folder / "new").rename(server.folder / name)
    weights = argparse.Namespace(IMAGENET1K_V1=argparse.Namespace(url=f"{server.url}/{name}"))
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _: weights)
    options = ["--backbone", "resnet18", "--hidden_dim", "32"]
    for _ in range(2):
        model, _, _ = build_model(args(*options))
        assert torch.equal(model.backbone[0].body.conv1.weight, state["conv1.weight"])
    assert server.asked == [f"/{name}"]
    cached = tmp_path / "cache" / "hub" / "checkpoints" / name
    cached.write_bytes(cached.read_bytes()[:1000])
    with pytest.raises(UserError, match=rf"{name}: this file in the cache .* delete it"):
        build_model(args(*options))
    cached.unlink()
    (server.folder / name).unlink()
    with pytest.raises(UserError, match=r"resnet18: .*cannot be .*--backbone_weights PATH"):
        build_model(args(*options))
    assert real.url == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    build_model(args(*options, "--resume", "c.pth"))
    build_model(args(*options, "--backbone_weights", "none"))


@pytest.mark.parametrize(
    "option", [["--backbone_weights"], ["--masks", "--frozen_weights"], ["--finetune"]]
)
def test_a_run_that_goes_on_needs_no_first_files(args, shapes, tmp_path, option):
    given = args("--coco_path", shapes, "--output_dir", tmp_path, "--resume", "auto",
                 *option, "gone.pth")  # fmt: skip
    with pytest.raises(UserError, match=rf"{option[-1]} gone\.pth: no such file"):
        check_files(given)
    (tmp_path / "checkpoint_of_mine.pth").touch()  # --resume auto takes none of these
    (tmp_path / "checkpoint0001.pth").mkdir()
    with pytest.raises(UserError, match=rf"{option[-1]} gone\.pth: no such file"):
        check_files(given)
    (tmp_path / "checkpoint.pth").touch()
    check_files(given)
    folder = args("--coco_path", shapes, option[-1], tmp_path)
    if option[-1] != "--backbone_weights":
        with pytest.raises(UserError, match=r"a folder; its checkpoint is .*/checkpoint\.pth"):
            check_files(folder)


def test_a_backbone_that_was_trained_from_scratch_cannot_be_frozen(args):
    options = args(*TINY_MODEL, "--lr_backbone", "0")
    with pytest.raises(UserError, match="trained from scratch cannot be frozen"):
        check_model_options(options, weights_are_given=True)
    with pytest.raises(UserError, match="needs an --lr_backbone above 0"):
        check_model_options(options, weights_are_given=False)


def test_an_output_dir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output_dir"):
        OutputDir(tmp_path / "file" / "out")
