"""Images of any size, features of blocks, gradient checkpointing, compilation, runs and tools."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from classification import DistilledVisionTransformer, VisionTransformer
from classification.attention import MapAndMask
from classification.classifier import load_classifier
from classification.run import build_model, build_teacher
from rpe_ops.attention import trial
from rpe_ops.irpe import TokenMap, get_rpe_config
from tests.classification.classifier_runs import draw_classes, parse, run_here
from util.errors import UserError

CONFIG = get_rpe_config(1.0, "product", "ctx", True, skip=1, rpe_on="qkv")
TINY = {
    "img_size": (12, 16), "patch_size": 2, "embed_dim": 8, "depth": 2, "num_heads": 2,
    "mlp_ratio": 2.0, "num_classes": 5,
}  # fmt: skip


def tiny(kind=VisionTransformer, rpe_config=CONFIG, **options):
    """Return a model with random parameters; the seed is the same each time."""
    torch.manual_seed(0)
    model = kind(rpe_config=rpe_config, **{**TINY, **options})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def resized(position, extra, old, new):
    """Resize position embeddings as the published fine-tuning does."""
    pixels = position[:, extra:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    pixels = F.interpolate(pixels, size=new, mode="bicubic", align_corners=False)
    return torch.cat([position[:, :extra], pixels.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


@pytest.mark.parametrize("kind", [VisionTransformer, DistilledVisionTransformer])
@pytest.mark.parametrize("size", [(6, 10), (12, 16), (16, 12), (2, 24), (30, 18)])
def test_three_ways_to_another_size_are_one(kind, size):
    """At run time, by set_input_size, and a model made for it; smaller and larger ones."""
    dynamic = tiny(kind, dynamic_img_size=True).eval()
    changed = tiny(kind).eval()
    changed.set_input_size(size)
    made = tiny(kind, img_size=size).eval()
    state = tiny(kind).state_dict()
    grid = (size[0] // 2, size[1] // 2)
    state["pos_embed"] = resized(state["pos_embed"], made.num_prefix_tokens, (6, 8), grid)
    made.load_state_dict(state)
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(dynamic(x), made(x))
    torch.testing.assert_close(changed(x), made(x))
    assert changed.pos_embed.requires_grad


def test_features_of_blocks_are_maps():
    model = tiny(dynamic_img_size=True).eval()
    x = torch.randn(2, 3, 6, 10)
    end, maps = model.forward_intermediates(x, norm=True)
    assert [m.shape for m in maps] == [(2, 8, 3, 5)] * 2
    torch.testing.assert_close(end, model.forward_features(x))
    torch.testing.assert_close(maps[-1].flatten(2).mT, end[:, 1:])
    torch.testing.assert_close(
        model.get_intermediate_layers(x, 1, reshape=True, norm=True)[0], maps[-1]
    )


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_features_only(name):
    encoding = {"enc_rpe2d": "rpe-1.9-product-ctx-1-k"}
    features = timm.create_model(
        name, features_only=True, out_indices=(3, 11), img_size=(32, 48), **encoding
    )
    maps = features(torch.randn(1, 3, 32, 48))
    assert [m.shape for m in maps] == [(1, 192, 2, 3)] * 2
    assert features.feature_info.channels() == [192, 192]
    assert all(torch.isfinite(m).all() for m in maps)


@pytest.mark.parametrize("kind", [VisionTransformer, DistilledVisionTransformer])
def test_without_classes_it_returns_features(kind):
    model = tiny(kind, num_classes=0).eval()
    x = torch.randn(2, 3, 12, 16)
    tokens = model.forward_features(x)[:, : model.num_prefix_tokens].mean(1)
    torch.testing.assert_close(model(x), tokens)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)


@pytest.mark.parametrize("kind", [VisionTransformer, DistilledVisionTransformer])
def test_gradient_checkpointing_keeps_the_map_of_each_image(kind):
    """Two maps of one number of patches, whose blocks are computed again in the backward pass."""
    plain = tiny(kind, dynamic_img_size=True, drop_path_rate=0.2, drop_rate=0.1).train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    images = [torch.randn(2, 3, 6, 16), torch.randn(2, 3, 16, 6)]
    results, runs = [], [0]
    saving.blocks[0].attn.register_forward_pre_hook(lambda *_: runs.append(runs.pop() + 1))
    for model in (plain, saving):
        torch.manual_seed(1)
        sum(model(x).square().sum() for x in images).backward()
        results.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*results)
    assert runs == [4]
    saving.set_grad_checkpointing(False)
    saving(images[0]).sum().backward()
    assert runs == [5]
    with torch.no_grad():
        saving.set_grad_checkpointing()
        saving(images[0])


def test_checkpointed_features_have_gradients():
    models = tiny(), tiny()
    models[1].set_grad_checkpointing()
    x, gradients = torch.randn(1, 3, 12, 16, requires_grad=True), []
    for model in models:
        torch.manual_seed(1)
        _, maps = model.forward_intermediates(x)
        gradients.append(torch.autograd.grad(maps[0].square().sum(), x)[0])
    torch.testing.assert_close(*gradients)


MASKS = {
    "which keys": torch.rand(49, 49) > 0.3,
    "numbers": torch.randn(49, 49),
    "of each image and head": torch.rand(2, 2, 49, 49) > 0.3,
    "of each image": torch.rand(2, 1, 49, 49) > 0.3,
}


@pytest.mark.parametrize("mask", [None, *MASKS])
@pytest.mark.parametrize("is_causal", [False, True])
def test_masks_are_timms(mask, is_causal):
    """Without an encoding all is as in timm's own attention, masks, too."""
    ours = tiny(rpe_config=None).eval()
    mask = None if mask is None else MASKS[mask]
    if mask is not None and mask.dtype == torch.bool:
        mask = mask | torch.eye(49, dtype=torch.bool)
    theirs = timm.models.vision_transformer.VisionTransformer(**TINY).eval()
    theirs.load_state_dict(ours.state_dict())
    for block in theirs.blocks:
        block.attn.fused_attn = False  # which takes no mask and is_causal together
    x = torch.randn(2, 3, 12, 16)
    options = {"attn_mask": mask, "is_causal": is_causal}
    torch.testing.assert_close(ours(x, **options), theirs(x, **options))
    plain = ours.blocks[0].attn
    tokens = torch.randn(2, 49, 8)
    whole = plain(tokens, MapAndMask(TokenMap(6, 8, 1), mask), is_causal)
    torch.testing.assert_close(plain(tokens, mask, is_causal), whole)


def test_masks_act_beside_an_encoding():
    """A key that nobody may attend to has no influence."""
    model = tiny(depth=1).eval()
    mask = torch.ones(49, 49, dtype=torch.bool)
    mask[:, 48] = False
    x = torch.randn(1, 3, 12, 16)
    changed = x.clone()
    changed[:, :, -2:, -2:] += 1  # the last patch
    torch.testing.assert_close(model(x, attn_mask=mask), model(changed, attn_mask=mask))
    assert not torch.allclose(model(x), model(changed))


def gradients(model, x):
    return torch.autograd.grad(model(x).sum(), list(model.parameters()))


def test_one_graph_without_breaks():
    """Also for an image of another size."""
    model = tiny(dynamic_img_size=True, depth=1).eval()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        for size in ((12, 16), (6, 10)):
            x = torch.randn(2, 3, *size)
            torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.nightly
def test_compiled_it_computes_the_same():
    model = tiny(depth=1, rpe_config=get_rpe_config(1.0, skip=1, rpe_on="kv"))
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    x = torch.randn(2, 3, 12, 16)
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradients(compiled, x), gradients(model, x), atol=1e-4, rtol=1e-3)


def test_half_precision_and_autocast():
    model = tiny().eval()
    x = torch.randn(2, 3, 12, 16)
    wanted = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(x).float(), wanted, atol=0.2, rtol=0.1)
    half = tiny(dtype=torch.bfloat16).eval()
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half(x.bfloat16()).dtype == torch.bfloat16


# ---- runs and tools ----


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    return draw_classes(tmp_path_factory.mktemp("colours"))


def test_fused_attention_is_checked_before_the_first_step(colours, monkeypatch):
    tried = []

    def why_not(*layer):
        tried.append(layer)
        return "it is too old"

    monkeypatch.setattr(trial, "why_not_layer", why_not)
    monkeypatch.setattr("classification.run.Run.train", lambda self: None)
    words = ["--attention", "fused", "--amp", "bf16", "--model-kwargs", "embed_dim=16", "depth=1",
             "num_heads=4", "patch_size=4"]  # fmt: skip
    for more, dropout in (([], False), (["attn_drop_rate=0.5"], True)):
        with pytest.raises(UserError, match=r"^--attention fused: it is too old$"):
            run_here(colours, *words, *more)
        encoding = get_rpe_config(1.9, skip=1, rpe_on="k")
        assert tried.pop() == (encoding, 4, torch.device("cpu"), torch.bfloat16, dropout)
    with pytest.raises(UserError, match=r"--input-size 3: smaller than a patch .*, 4 x 4"):
        run_here(colours, "--input-size", 3)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--model-kwargs", "depth=1", "num_heads=6", "patch_size=8", "--input-size", "16"], 16),
        (["--input-size", "18"], 18),  # not a multiple of the patch
    ],
)
def test_tools_have_the_model_that_was_trained(colours, tmp_path, options, size):
    """Its heads, which tensors do not show, and the size of its images."""
    args = parse(colours, "--enc_rpe2d", "", *options, "--num-classes", 3)
    model = build_model(args).eval()
    torch.save({"model": model.state_dict(), "args": args}, tmp_path / "c.pth")
    classifier = load_classifier(tmp_path / "c.pth", "cpu")
    assert classifier.options.img_size == (size, size)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(classifier.model(images), model(images))
    args.model_kwargs.append("act_layer=relu")
    torch.save({"model": model.state_dict(), "args": args}, tmp_path / "c.pth")
    for more in ({}, {"num_heads": 6}):
        with pytest.raises(UserError, match="was trained with --model-kwargs act_layer=relu"):
            load_classifier(tmp_path / "c.pth", "cpu", **more)
    for odd in (5, {"num_heads": 6}, [6]):  # of a checkpoint that somebody else has made
        args.model_kwargs = odd
        torch.save({"model": model.state_dict(), "args": args}, tmp_path / "c.pth")
        with pytest.raises(UserError, match=r"model_kwargs is .*, not a list of texts"):
            load_classifier(tmp_path / "c.pth", "cpu")


def test_sizes_and_options_that_a_model_does_not_take(colours, tmp_path):
    vit = ["--enc_rpe2d", "", "--model", "vit_tiny_patch16_224", "--model-kwargs", "depth=1"]
    with pytest.raises(UserError, match="vit_tiny_patch16_224: takes images of 224 x 224"):
        run_here(colours, *vit, "--input-size", 32)
    for word, reason in (("num_classes=3", "the data decide"), ("in_chans=1", "3 channels")):
        with pytest.raises(UserError, match=f"--model-kwargs {word}: .*{reason}"):
            run_here(colours, *vit, word)
    teacher = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    torch.save({"model": teacher.state_dict()}, tmp_path / "teacher.pth")
    args = parse(colours, "--distillation-type", "hard", "--teacher-model", "vit_tiny_patch16_224",
                 "--teacher-path", tmp_path / "teacher.pth", "--num-classes", 3)  # fmt: skip
    with pytest.raises(UserError, match="--teacher-model vit_tiny_patch16_224: takes images of"):
        build_teacher(args, torch.device("cpu"))
