"""Weights as the published DeiT with iRPE writes them, into models that may differ a little."""

import argparse
import hashlib
import shutil
from pathlib import Path

import pytest
import timm
import timm.scheduler
import torch
import torch.nn.functional as F
from torch import nn

from classification import MODELS, DistilledVisionTransformer, VisionTransformer, load_weights
from rpe_ops.irpe import get_rpe_config
from util.errors import UserError

TINY_K = "deit_tiny_patch16_224_ctx_product_50_shared_k"
CONFIG = get_rpe_config(1.0, "product", "ctx", True, skip=1, rpe_on="k")
TINY = {
    "img_size": 12, "patch_size": 2, "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
    "num_classes": 5,
}  # fmt: skip
DISTILLED = {"kind": DistilledVisionTransformer}


def tiny(kind=VisionTransformer, seed=0, rpe_config=CONFIG, **options):
    torch.manual_seed(seed)
    model = kind(rpe_config=rpe_config, **{**TINY, **options}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def fresh(kind=VisionTransformer, rpe_config=CONFIG, **options):
    """Return a model with the usual initial values."""
    return kind(rpe_config=rpe_config, **{**TINY, **options}).eval()


def write_published(path: Path, model: nn.Module, average: nn.Module | None = None) -> Path:
    """Write a checkpoint with all entries that the published training writes."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    optimizer.zero_grad()
    schedule = timm.scheduler.CosineLRScheduler(optimizer, t_initial=300)
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 299,
        "model_ema": (average or model).state_dict(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
        "args": argparse.Namespace(model=TINY_K, output_dir=Path("outputs"), lr=1e-3),
    }
    torch.save(content, path)
    return path


def assert_same(model, wanted, but=()):
    for (name, one), other in zip(model.state_dict().items(), wanted.state_dict().values()):
        assert torch.equal(one, other) != (name in but), name


@pytest.mark.parametrize("options", [{}, DISTILLED], ids=["plain", "distilled"])
def test_a_published_checkpoint(tmp_path, capsys, options):
    """The weights that were trained, not the averaged ones, which it holds, too."""
    saved, average = tiny(**options), tiny(**options, seed=1)
    path = write_published(tmp_path / "checkpoint.pth", saved, average)
    model = fresh(**options)
    loaded = load_weights(model, path)
    assert_same(model, saved)
    assert loaded.lines() == [] and capsys.readouterr().out == ""
    load_weights(model, str(path), average=True)
    assert_same(model, average)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("entry", [None, "model", "state_dict"])
def test_weights_alone(tmp_path, prefix, entry):
    saved, model = tiny(), fresh()
    state = {prefix + name: value for name, value in saved.state_dict().items()}
    torch.save(state if entry is None else {entry: state}, tmp_path / "weights.pth")
    load_weights(model, tmp_path / "weights.pth")
    assert_same(model, saved)


@pytest.mark.parametrize("options", [{}, DISTILLED], ids=["plain", "distilled"])
@pytest.mark.parametrize("classes", [3, 0])
def test_other_classes_keep_all_but_the_heads(tmp_path, capsys, options, classes):
    saved = tiny(**options)
    path = write_published(tmp_path / "five.pth", saved)
    model = fresh(**options, num_classes=classes)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loaded = load_weights(model, path)
    heads = ["head", "head_dist"][: 1 + bool(options)]
    names = [f"{head}.{kind}" for head in heads for kind in ("weight", "bias")]
    assert loaded.new == (names if classes else [])
    said = capsys.readouterr().out
    for name in names:
        what = "5 classes there, 3 here" if classes else "the model has none"
        assert f"{name} ({what})" in said
    for name, value in model.state_dict().items():
        wanted = before[name] if name in names else saved.state_dict()[name]
        assert torch.equal(value, wanted), name


@pytest.mark.parametrize("options", [{}, DISTILLED], ids=["plain", "distilled"])
@pytest.mark.parametrize("size", [(8, 20), (16, 16), (12, 6)])
def test_other_image_sizes(tmp_path, capsys, options, size):
    """Position embeddings are resized as published, not smoothed; tables fit any size."""
    saved, model = tiny(**options), fresh(**options, img_size=size)
    path = write_published(tmp_path / "square.pth", saved)
    loaded = load_weights(model, path)
    height, width = size[0] // 2, size[1] // 2
    assert f"from 6 x 6 to {height} x {width}" in capsys.readouterr().out and loaded.left_out == []
    extra = saved.num_prefix_tokens
    pixels = saved.pos_embed[:, extra:].mT.reshape(1, 8, 6, 6)
    wanted = F.interpolate(pixels, size=(height, width), mode="bicubic", align_corners=False)
    assert torch.equal(model.pos_embed[:, :extra], saved.pos_embed[:, :extra])
    torch.testing.assert_close(model.pos_embed[:, extra:], wanted.flatten(2).mT)
    for name, value in model.state_dict().items():
        assert name == "pos_embed" or torch.equal(value, saved.state_dict()[name]), name


def test_maps_that_are_not_square(tmp_path):
    """36 patches can be 6 x 6 and 4 x 9: the caller says which."""
    saved = tiny(img_size=(8, 18))
    path = write_published(tmp_path / "long.pth", saved)
    model = fresh(img_size=(8, 18))
    with pytest.raises(UserError, match=r"36 patches are 6 x 6 or 4 x 9: give grid="):
        load_weights(model, path)
    load_weights(model, path, grid=(4, 9))
    assert_same(model, saved)
    load_weights(model, path, grid=(6, 6))
    assert_same(model, saved, but=["pos_embed"])
    with pytest.raises(UserError, match=r"36 patches are not 5 x 5: give grid="):
        load_weights(model, path, grid=(5, 5))
    saved = tiny(img_size=(6, 8))
    path = write_published(tmp_path / "wide.pth", saved)
    with pytest.raises(UserError, match=r"12 patches are not a square: give grid="):
        load_weights(model, path)
    model = fresh(img_size=(6, 8))
    load_weights(model, path)
    assert_same(model, saved)


def test_plain_weights_into_a_model_with_an_encoding(tmp_path, capsys):
    """Tables stay 0, which changes nothing of what the model computes."""
    saved = tiny(rpe_config=None)
    path = write_published(tmp_path / "plain.pth", saved)
    model = fresh()
    loaded = load_weights(model, path)
    assert loaded.new == [f"blocks.{i}.attn.rpe_k.lookup_table_weight" for i in (0, 1)]
    assert "new, and 0 in each block: rpe_k.lookup_table_weight" in capsys.readouterr().out
    x = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(model(x), saved(x))


CROSS = get_rpe_config(1.0, "cross", "bias", False, skip=1, rpe_on="q")
OTHER_MODELS = {
    "an encoding that the model lacks":
        ({}, {"rpe_config": None}, r"rpe_k.* \(1, 4, 26\), the model's none"),
    "another encoding":
        ({}, {"rpe_config": CROSS}, r"encoding is rpe_k.*, the model's rpe_q\.rp_cols"),
    "distilled": (DISTILLED, {}, "has a distillation token, .* create deit_.*_distilled"),
    "not distilled": ({}, DISTILLED, "has no distillation token, .* create deit_"),
    "wider": ({"embed_dim": 16, "num_heads": 4}, {}, r"is \(1, 1, 16\), in the model \(1, 1, 8\)"),
    "deeper": ({"depth": 3}, {}, r"blocks\.2\.\S+ is not in the model"),
    "less deep": ({"depth": 1}, {}, r"has no blocks\.1\."),
    "without absolute positions":
        ({"pos_embed": "none"}, {}, "has no absolute .* model has absolute .*pos_embed=none"),
    "with absolute positions": ({}, {"pos_embed": "none"}, "has absolute positions, .*=learn"),
    "other patches": ({"patch_size": 3}, {}, r"patch_embed\.proj\.weight is \(8, 3, 3, 3\)"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHER_MODELS)
def test_weights_of_another_model_are_refused(tmp_path, what):
    there, here, says = OTHER_MODELS[what]
    path = write_published(tmp_path / "other.pth", tiny(**there))
    model = fresh(**here)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=rf"other\.pth: .*{says}"):
        load_weights(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "content, options, says",
    [
        ({"model": {}}, {}, "holds no weights"),
        ({"model": {"cls_token": 3}}, {}, "holds no weights"),
        ([1], {}, "holds no weights"),
        ({"transformer.a": torch.zeros(1)}, {}, "not the weights of a DeiT: .*'transformer.a'"),
        ({"model": {}}, {"average": True}, "no averaged weights"),
        ({"model": hashlib.sha256}, {}, "could run code"),
    ],
)
def test_files_without_a_deit(tmp_path, content, options, says):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=rf"file\.pth: .*{says}"):
        load_weights(fresh(), tmp_path / "file.pth", **options)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth: no such checkpoint file"):
        load_weights(fresh(), tmp_path / "none.pth")


# ---- pretrained=True ----


def test_addresses_of_published_weights():
    zoo = "https://github.com/wkcn/iRPE-model-zoo/releases/download/1.0/"
    found = {name: timm.get_pretrained_cfg(name).url for name in MODELS}
    for name, url in found.items():
        if any(method in name for method in ("_euc_", "_quant_", "_cross_")):
            assert not url
        elif "_ctx_" in name:
            assert url == f"{zoo}{name}.pth"
        else:  # timm's own models have the same files
            digest = url.rpartition("-")[2].removesuffix(".pth")
            assert (
                url == f"https://dl.fbaipublicfiles.com/deit/{name}-{digest}.pth"
                and len(digest) == 8
            )
    assert found["deit_tiny_patch16_224"].endswith("a1311bcf.pth")


def test_pretrained_is_downloaded_and_loaded(server, capsys):
    torch.manual_seed(0)
    saved = timm.create_model(TINY_K)
    nn.init.normal_(saved.blocks[11].attn.rpe_k.lookup_table_weight)
    write_published(server.folder / "new.pth", saved, timm.create_model(TINY_K))
    digits = hashlib.sha256((server.folder / "new.pth").read_bytes()).hexdigest()[:8]
    shutil.move(server.folder / "new.pth", server.folder / f"{TINY_K}-{digits}.pth")
    address = {"url": f"{server.url}/{TINY_K}-{digits}.pth"}
    model = timm.create_model(TINY_K, pretrained=True, pretrained_cfg_overlay=address)
    assert_same(model, saved)
    small = timm.create_model(
        TINY_K, pretrained=True, pretrained_cfg_overlay=address, num_classes=10, img_size=(32, 48)
    )
    assert "head.weight (1000 classes there, 10 here)" in capsys.readouterr().out
    assert small(torch.zeros(1, 3, 32, 48)).shape == (1, 10)
    features = timm.create_model(
        TINY_K, pretrained=True, pretrained_cfg_overlay=address, features_only=True
    )
    assert torch.equal(features.model.cls_token, saved.cls_token)
    assert len(server.asked) == 1  # then it is in the cache


def test_pretrained_from_a_file(tmp_path):
    saved = timm.create_model("deit_tiny_distilled_patch16_224")
    path = write_published(tmp_path / "mine.pth", saved)
    overlay = {"file": str(path)}
    name = "deit_tiny_distilled_patch16_224"
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    assert_same(model, saved)


def test_names_without_published_weights():
    name = "deit_small_patch16_224_ctx_euc_20_shared_k"
    with pytest.raises(UserError, match=rf"{name}: no weights were published.* leave"):
        timm.create_model(name, pretrained=True)
