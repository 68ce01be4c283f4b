"""--dec_rpe in decoder and detector: boxes that each layer refines, and what depends on them."""

import pytest
import torch
from torch import nn

from models import build_model
from models.box_bias.dec_rpe import parse_dec_rpe
from models.transformer import Transformer
from tests.helpers.commands import TINY_MODEL

WIDTH, HEADS, LAYERS, QUERIES, BATCH = 16, 4, 3, 5, 2
HW = (3, 4)
PREFIX = "transformer.decoder.references."
PUBLISHED = ["--resume", "built as for a checkpoint", "--backbone_weights", "imagenet"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomised(module, std=0.3):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def transformer(text="box-log-relation", pre_norm=False):
    config = parse_dec_rpe(text)
    sizes = (WIDTH, HEADS, 1, LAYERS, 24, 0.0)
    return randomised(Transformer(*sizes, normalize_before=pre_norm, dec_rpe=config).double())


def box_head():
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def tensor(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def sigmoid(x):
    return 1 / (1 + (-x).exp())


def inverse_sigmoid(x):
    return (x / (1 - x)).log()


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("text", ["box-linear", "box-log-relation"])
def test_decoder_equals_a_loop(text, pre_norm):
    """Boxes in place of logits, torch's layers with masks made of the bias."""
    model, head = transformer(text, pre_norm), box_head()
    src, pos, queries = tensor(BATCH, WIDTH, *HW), tensor(BATCH, WIDTH, *HW), tensor(QUERIES, WIDTH)
    mask = torch.zeros(BATCH, *HW, dtype=torch.bool)
    mask[1, 2:] = True
    hidden, memory = model(src, mask, queries, pos, head)
    found = model.decoder.references.predictions(queries, head(hidden)).sigmoid()

    decoder, references = model.decoder, model.decoder.references
    memory, place = (t.flatten(2).permute(0, 2, 1) for t in (memory, pos))
    query_pos = queries.expand(BATCH, -1, -1)
    x, boxes = torch.zeros_like(query_pos), sigmoid(references.initial(query_pos))

    def attend(layer, query, key, value, term):
        theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
        theirs.load_state_dict(layer.state_dict())
        return theirs(query, key, value, attn_mask=term, need_weights=False)[0]

    def without(x):
        return x

    for number, layer in enumerate(decoder.layers):
        bias = references(inverse_sigmoid(boxes), mask)
        term = (bias.rows[..., :, None] + bias.columns[..., None, :]).flatten(3)
        term = term.masked_fill(mask.flatten(1)[:, None, None], -torch.inf).flatten(0, 1)
        before = [layer.norm1, layer.norm2, layer.norm3] if pre_norm else [without] * 3
        after = [without] * 3 if pre_norm else [layer.norm1, layer.norm2, layer.norm3]
        y = before[0](x)
        q = y + query_pos
        x = after[0](x + attend(layer.self_attn, q, q, y, bias.pairs))
        q = before[1](x) + query_pos
        x = after[1](x + attend(layer.multihead_attn, q, memory + place, memory, term))
        y = before[2](x)
        x = after[2](x + layer.linear2(layer.linear1(y).clamp(min=0)))
        torch.testing.assert_close(hidden[number], decoder.norm(x))
        boxes = sigmoid(inverse_sigmoid(boxes) + head(decoder.norm(x)))
        torch.testing.assert_close(found[number], boxes)


@pytest.mark.parametrize("text", ["box-linear", "box-log-relation"])
def test_padding_changes_nothing(text):
    """An image alone, and in a batch beside a larger one: the same outputs and boxes."""
    model, head, queries = transformer(text), box_head(), tensor(QUERIES, WIDTH)
    small, pos = tensor(1, WIDTH, *HW), tensor(1, WIDTH, *HW)
    mask = torch.zeros(1, *HW, dtype=torch.bool)
    alone = model(small, mask, queries, pos, head)[0]
    larger = (HW[0] + 3, HW[1] + 2)
    src, place = tensor(2, WIDTH, *larger), tensor(2, WIDTH, *larger)
    src[0, :, : HW[0], : HW[1]], place[0, :, : HW[0], : HW[1]] = small[0], pos[0]
    mask = torch.ones(2, *larger, dtype=torch.bool)
    mask[0, : HW[0], : HW[1]], mask[1] = False, False
    beside = model(src, mask, queries, place, head)[0]
    # Places are computed in float32.
    torch.testing.assert_close(beside[:, 0], alone[:, 0], atol=1e-6, rtol=1e-6)
    boxes = [
        model.decoder.references.predictions(queries, head(hidden)).sigmoid()
        for hidden in (beside[:, :1], alone)
    ]
    torch.testing.assert_close(*boxes, atol=1e-6, rtol=1e-6)
    assert (beside[:, 1] - beside[:, 0]).abs().max() > 1e-2


def test_gradients_stop_between_layers():
    """The loss of a layer's boxes reaches the box head by that layer alone."""
    references = transformer().decoder.references
    queries, changes = tensor(QUERIES, WIDTH).requires_grad_(), tensor(LAYERS, BATCH, QUERIES, 4)
    changes.requires_grad_()
    references.predictions(queries, changes)[1].sum().backward()
    assert torch.equal(changes.grad[1], torch.ones_like(changes[1]))
    assert not changes.grad[[0, 2]].any() and not queries.grad.any()
    references.predictions(queries, changes)[0].sum().backward()
    assert queries.grad.abs().min() > 0


# ---- the detector ----


def built(args, *options, seed=0):
    torch.manual_seed(seed)
    return build_model(args(*TINY_MODEL, "--num_classes", "6", *options))[0]


def images():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(3, *size, generator=generator) for size in ((64, 96), (96, 64))]


def test_without_it_nothing_changes(args):
    """The same parameters, from the same random numbers, and boxes without references."""
    plain = built(args)
    after = torch.get_rng_state()
    none = built(args, "--dec_rpe", "")
    assert torch.equal(torch.get_rng_state(), after)
    assert list(plain.state_dict()) == list(none.state_dict())
    boxes = built(args, "--dec_rpe", "box-log")
    new = [name for name in boxes.state_dict() if name not in plain.state_dict()]
    assert new and all(name.startswith(PREFIX) for name in new)
    assert set(plain.state_dict()) < set(boxes.state_dict())
    hidden = torch.randn(2, 2, 8, 32)
    wanted = plain.bbox_embed(hidden).sigmoid()
    found = plain.predict(hidden)
    assert torch.equal(found["pred_boxes"], wanted[1])
    assert torch.equal(found["aux_outputs"][0]["pred_boxes"], wanted[0])


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("aux", [False, True])
def test_each_layer_predicts_its_refined_boxes(args, aux, pre_norm):
    options = ["--dec_rpe", "box-linear", "--dec_layers", "3"]
    options += ["--no_aux_loss"] * (not aux) + ["--pre_norm"] * pre_norm
    model = built(args, *options).eval()
    hidden = model.encode(images()).hidden
    outputs = model(images())
    layers = [*outputs.get("aux_outputs", []), outputs]
    assert len(layers) == (3 if aux else 1) and len(hidden) == 3
    boxes = sigmoid(model.transformer.decoder.references.initial(model.query_embed.weight))
    wanted = []
    for x in hidden:
        boxes = sigmoid(inverse_sigmoid(boxes) + model.bbox_embed(x))
        wanted.append(boxes)
    for layer, boxes in zip(layers, wanted[-len(layers) :], strict=True):
        torch.testing.assert_close(layer["pred_boxes"], boxes, atol=1e-5, rtol=1e-5)
        assert layer["pred_logits"].shape == (2, 8, 7)


@pytest.mark.parametrize("text", ["box-linear-relation", "box-log"])
def test_every_part_learns(args, text):
    model = built(args, "--dec_rpe", text)
    references = model.transformer.decoder.references
    randomised(references)
    outputs = model(images())
    layers = [outputs, *outputs["aux_outputs"]]
    sum(
        layer["pred_boxes"].sum() + layer["pred_logits"][..., 0].sum() for layer in layers
    ).backward()
    for name, parameter in references.named_parameters():
        # A bias of all keys alike has no effect, and so no gradient.
        if not name.endswith("2.bias"):
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("masks", [False, True])
def test_gradient_checkpointing_changes_no_gradient(args, masks):
    gradients = []
    for more in ([], ["--gradient_checkpointing"]):
        options = ["--dec_rpe", "box-log-relation", *["--masks"] * masks, *more]
        model = built(args, *PUBLISHED, "--backbone", "resnet18", *options)
        torch.manual_seed(1)
        randomised(getattr(model, "detr", model).transformer.decoder.references)
        outputs = model.train()(images())
        (outputs["pred_boxes"].sum() + outputs["pred_logits"].square().mean()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 50
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5)


def test_boxes_are_float32_in_mixed_precision(args):
    """Offsets of 1/256 of the image would be lost in bfloat16, whose boxes are off by as much."""
    model = built(args, "--dec_rpe", "box-log-relation").eval()
    references = randomised(model.transformer.decoder.references)
    seen = []
    references.register_forward_hook(lambda module, inputs, bias: seen.append((*inputs, *bias)))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        outputs = model(images())
    assert len(seen) == 2
    for logits, _, *bias in seen:
        assert {part.dtype for part in (logits, *bias)} == {torch.float32}
    first = references.initial(model.query_embed.weight)
    assert torch.equal(seen[0][0][0], first)
    # The second layer's references are the first one's predictions.
    boxes = outputs["aux_outputs"][0]["pred_boxes"]
    torch.testing.assert_close(seen[1][0].sigmoid(), boxes, atol=1e-6, rtol=1e-6)
