"""The detector: names, numbers and shapes that existing checkpoints fix."""

import math

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from models import build_model
from tests.helpers.commands import RPE, TINY_MODEL
from util.misc import NestedTensor, nested_tensor_from_tensor_list

# Built as for a checkpoint, so that no weights are fetched.
PUBLISHED = ("--resume", "checkpoint.pth")


def trainable(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("rpe", "numbers"),
    [("", 41302368), ("rpe-1.9-product-ctx-1-k", 41311776), (RPE, 41317920)],
)
def test_number_of_parameters(args, rpe, numbers):
    model, _, _ = build_model(args(*PUBLISHED, "--enc_rpe2d", rpe))
    assert trainable(model) == numbers
    assert not model.backbone[0].body.conv1.weight.requires_grad
    assert not model.backbone[0].body.layer1[0].conv1.weight.requires_grad
    assert model.backbone[0].body.layer2[0].conv1.weight.requires_grad


def test_frozen_and_trained_backbones(args):
    frozen, _, _ = build_model(args(*PUBLISHED, "--lr_backbone", "0"))
    assert not any(p.requires_grad for p in frozen.backbone.parameters())
    scratch, _, _ = build_model(args("--backbone", "resnet10", "--backbone_weights", "none"))
    assert all(p.requires_grad for p in scratch.backbone.parameters())
    assert isinstance(scratch.backbone[0].body.bn1, nn.BatchNorm2d)
    assert 4.5e6 < trainable(scratch.backbone) < 5.5e6


@pytest.mark.parametrize(
    ("name", "numbers", "sides"),
    [("resnet10", 4_905_792, (24, 12, 6, 3)), ("resnet10_tiny", 309_456, (24, 12, 6, 6))],
)
def test_small_backbones(args, name, numbers, sides):
    """Numbers of torchvision's ResNet with one basic block a stage; 64 / 4 channels in the tiny."""
    options = ["--backbone", name, "--backbone_weights", "none", "--masks"]
    backbone = build_model(args(*options))[0].detr.backbone
    assert trainable(backbone) == numbers
    features, _ = backbone(nested_tensor_from_tensor_list([torch.zeros(3, 96, 96)]))
    assert [f.tensors.shape[-1] for f in features] == list(sides)
    assert [f.tensors.shape[1] for f in features] == backbone.stage_channels


def expected_names(layers=6, pre_norm=False, learned=False):
    """State-dict names of a ResNet-50 DETR with iRPE on keys, from DETR's layout."""
    both = ("weight", "bias")
    names = {f"class_embed.{s}" for s in both} | {f"input_proj.{s}" for s in both}
    names |= {f"bbox_embed.layers.{i}.{s}" for i in range(3) for s in both}
    names |= {"query_embed.weight"}
    if learned:
        names |= {"backbone.1.row_embed.weight", "backbone.1.col_embed.weight"}
    attention = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    for i in range(layers):
        for stack, attentions, norms in (
            ("encoder", ("self_attn",), 2),
            ("decoder", ("self_attn", "multihead_attn"), 3),
        ):
            layer = f"transformer.{stack}.layers.{i}"
            names |= {f"{layer}.{a}.{p}" for a in attentions for p in attention}
            names |= {f"{layer}.linear{j}.{s}" for j in (1, 2) for s in both}
            names |= {f"{layer}.norm{j + 1}.{s}" for j in range(norms) for s in both}
        names.add(f"transformer.encoder.layers.{i}.self_attn.rpe_k.lookup_table_weight")
    for stack in ("encoder", "decoder") if pre_norm else ("decoder",):
        names |= {f"transformer.{stack}.norm.{s}" for s in both}
    body = "backbone.0.body"
    norm = ("weight", "bias", "running_mean", "running_var")
    names |= {f"{body}.conv1.weight"} | {f"{body}.bn1.{s}" for s in norm}
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            prefix = f"{body}.layer{stage}.{block}"
            names |= {f"{prefix}.conv{j}.weight" for j in (1, 2, 3)}
            names |= {f"{prefix}.bn{j}.{s}" for j in (1, 2, 3) for s in norm}
        names |= {f"{body}.layer{stage}.0.downsample.0.weight"}
        names |= {f"{body}.layer{stage}.0.downsample.1.{s}" for s in norm}
    return names


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("learned", [False, True])
def test_state_dict_names(args, pre_norm, learned):
    options = [*PUBLISHED, "--enc_rpe2d", RPE]
    options += ["--pre_norm"] * pre_norm + ["--position_embedding", "learned"] * learned
    model, _, _ = build_model(args(*options))
    state = model.state_dict()
    assert set(state) == expected_names(pre_norm=pre_norm, learned=learned)
    table = state["transformer.encoder.layers.5.self_attn.rpe_k.lookup_table_weight"]
    assert table.shape == (1, 32, 81)
    if learned:
        assert state["backbone.1.row_embed.weight"].shape == (50, 128)


def test_transformer_starts_xavier_uniform_tables_included(args):
    model, _, _ = build_model(args(*PUBLISHED, "--enc_rpe2d", RPE))
    layer = model.transformer.encoder.layers[0]
    for parameter, bound in (
        # torch's fans of (1, 32, 81): in 32 * 81, out 1 * 81
        (layer.self_attn.rpe_k.lookup_table_weight, math.sqrt(6 / (32 * 81 + 81))),
        (layer.linear1.weight, math.sqrt(6 / (256 + 2048))),
    ):
        assert 0.95 * bound < parameter.abs().max() <= bound
    assert layer.linear1.bias.abs().max() > 0  # not touched: nn.Linear's own start


def test_frozen_batch_norm(args):
    model, _, _ = build_model(args(*PUBLISHED))
    norm = model.backbone[0].body.bn1
    state = {
        "weight": torch.rand(64), "bias": torch.rand(64), "running_mean": torch.rand(64),
        "running_var": torch.rand(64) + 0.1, "num_batches_tracked": torch.tensor(5),
    }  # fmt: skip
    norm.load_state_dict(dict(state))
    x = torch.randn(1, 64, 2, 2)
    shape = (1, 64, 1, 1)
    wanted = (x - state["running_mean"].view(shape)) / (state["running_var"] + 1e-5).sqrt().view(
        shape
    ) * state["weight"].view(shape) + state["bias"].view(shape)
    torch.testing.assert_close(norm.train()(x), wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(norm.running_mean, state["running_mean"])


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_folded_batch_norm_computes_what_torchvision_does(args, name):
    model, _, _ = build_model(args(*PUBLISHED, "--backbone", name))
    body = model.backbone[0].body
    for module in body.modules():
        if isinstance(module, FrozenBatchNorm2d):
            for buffer in module.buffers():
                nn.init.uniform_(buffer, 0.5, 1.5)
    plain = torchvision.models.get_model(name, weights=None, norm_layer=FrozenBatchNorm2d)
    plain.load_state_dict(body.state_dict(), strict=False)
    plain.avgpool = plain.fc = nn.Identity()
    images = nested_tensor_from_tensor_list([torch.randn(3, 64, 96, dtype=torch.float64)])
    plain.double()
    body.double()

    wanted = plain(images.tensors)
    out = model.backbone[0](images)["0"].tensors
    torch.testing.assert_close(out.flatten(1), wanted)
    wanted.square().mean().backward()
    out.square().mean().backward()
    for name in ("layer2.0.conv1", "layer4.1.conv2"):
        wanted = plain.get_submodule(name).weight.grad
        grad = body.get_submodule(name).weight.grad
        torch.testing.assert_close(grad, wanted)


def test_gradient_checkpointing_changes_no_gradient(args):
    options = [*TINY_MODEL, "--backbone_weights", "imagenet", "--backbone", "resnet18"]
    images = [torch.randn(3, 64, 96), torch.randn(3, 80, 64)]
    gradients = []
    for more in ([], ["--gradient_checkpointing"]):
        torch.manual_seed(0)
        model, _, _ = build_model(args(*PUBLISHED, *options, *more))
        torch.manual_seed(1)  # of dropout, which has to fall on the same places again
        model.train()(images)["pred_boxes"].sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 50
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-4, atol=1e-5)


def test_dilation_halves_the_stride(args):
    model, _, _ = build_model(args(*PUBLISHED, "--dilation"))
    images = nested_tensor_from_tensor_list([torch.randn(3, 64, 96)])
    assert model.backbone(images)[0][-1].tensors.shape == (1, 2048, 4, 6)


@pytest.mark.parametrize("aux", [True, False])
@pytest.mark.parametrize("pre_norm", [True, False])
def test_outputs(args, aux, pre_norm):
    options = [*TINY_MODEL, *["--no_aux_loss"] * (not aux), *["--pre_norm"] * pre_norm]
    model, _, _ = build_model(args(*options))
    outputs = model([torch.randn(3, 64, 96), torch.randn(3, 96, 64)])
    layers = [outputs, *outputs.get("aux_outputs", [])]
    assert len(layers) == (2 if aux else 1)
    for layer in layers:
        assert layer["pred_logits"].shape == (2, 8, 92)
        assert layer["pred_boxes"].shape == (2, 8, 4)
        assert layer["pred_boxes"].aminmax().min >= 0
        assert layer["pred_boxes"].aminmax().max <= 1


@pytest.mark.parametrize("place", ["ctx-1-k", "ctx-0-qkv", "bias-0-qk"])
@pytest.mark.parametrize("method", ["euc", "quant", "cross", "product"])
def test_every_encoding_trains_in_the_detector(args, method, place):
    model, _, _ = build_model(args(*TINY_MODEL, "--enc_rpe2d", f"rpe-2.0-{method}-{place}"))
    outputs = model([torch.randn(3, 64, 96), torch.randn(3, 96, 64)])
    outputs["pred_boxes"].sum().backward()
    tables = {n: p for n, p in model.named_parameters() if "lookup_table" in n}
    assert len(tables) >= 2  # at least one in each of two layers
    assert all(table.grad.abs().sum() > 0 for table in tables.values())


def test_heads_follow_the_formulas(args):
    """Classes and boxes of each decoder layer; the last one's are the result."""
    model, _, _ = build_model(args(*TINY_MODEL, "--num_classes", "6"))
    hidden = torch.randn(2, 3, 8, 32)
    outputs = model.predict(hidden)
    (earlier,) = outputs["aux_outputs"]
    first, second, third = model.bbox_embed.layers
    for x, found in zip(hidden, (earlier, outputs), strict=True):
        logits = x @ model.class_embed.weight.T + model.class_embed.bias
        torch.testing.assert_close(found["pred_logits"], logits)
        x = (x @ first.weight.T + first.bias).clamp(min=0)
        x = (x @ second.weight.T + second.bias).clamp(min=0)
        wanted = 1 / (1 + (-(x @ third.weight.T + third.bias)).exp())
        torch.testing.assert_close(found["pred_boxes"], wanted)


def test_masks_of_maps_are_interpolated_to_the_nearest(args):
    model, _, _ = build_model(args(*TINY_MODEL))
    images = nested_tensor_from_tensor_list([torch.randn(3, 70, 150), torch.randn(3, 130, 97)])
    (features,), _ = model.backbone(images)
    size = features.tensors.shape[-2:]
    wanted = nn.functional.interpolate(images.mask[None].float(), size=size)[0].bool()
    assert size == (5, 5) and torch.equal(features.mask, wanted)


def test_padding_does_not_change_what_is_found(args):
    """Padding by whole tokens of the map: only convolutions at the border may tell."""
    torch.manual_seed(0)
    model, _, _ = build_model(args(*TINY_MODEL))
    model.eval()

    class Cut(nn.Module):
        """Stands for a backbone without border effects: mean colour of each 32 x 32 patch."""

        num_channels = 512

        def forward(self, images):
            x = nn.functional.avg_pool2d(images.tensors, 32).repeat(1, 171, 1, 1)[:, :512]
            mask = images.mask[:, ::32, ::32]
            return {"0": NestedTensor(x, mask)}

    model.backbone[0] = Cut()
    small = torch.randn(3, 64, 96)
    alone = model([small])
    beside = model([small, torch.randn(3, 128, 160)])
    # Relative positions and the padding mask see the same tokens at the same offsets.
    torch.testing.assert_close(
        beside["pred_logits"][0], alone["pred_logits"][0], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        beside["pred_boxes"][0], alone["pred_boxes"][0], atol=1e-5, rtol=1e-5
    )


def test_images_are_padded_right_and_bottom():
    nested = nested_tensor_from_tensor_list([torch.ones(3, 2, 5), torch.ones(3, 4, 3)])
    assert nested.tensors.shape == (2, 3, 4, 5)
    assert nested.tensors.sum((1, 2, 3)).tolist() == [30, 36]
    assert (~nested.mask).sum((1, 2)).tolist() == [10, 12]
    assert not nested.mask[0, :2, :5].any() and not nested.mask[1, :4, :3].any()


def test_attention_is_asked_for_no_weights(args, monkeypatch):
    asked = []
    forward = nn.MultiheadAttention.forward

    def spy(self, *positional, **named):
        asked.append(named.get("need_weights", True))
        return forward(self, *positional, **named)

    monkeypatch.setattr(nn.MultiheadAttention, "forward", spy)
    from models.rpe_attention import multi_head_attention as rpe

    original = rpe.rpe_attention
    monkeypatch.setattr(
        rpe, "rpe_attention",
        lambda *a, **k: asked.append(k["need_weights"]) or original(*a, **k),
    )  # fmt: skip
    model, _, _ = build_model(args(*TINY_MODEL))
    model([torch.randn(3, 64, 64)])
    assert asked == [False] * 6
