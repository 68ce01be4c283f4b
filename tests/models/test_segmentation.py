"""The mask head against loops written from the formulas, and how it is trained."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from models import build_model, segmentation
from models.segmentation import MaskHeadSmallConv, MHAttentionMap
from tests.helpers.commands import TINY_MODEL
from util.misc import nested_tensor_from_tensor_list

# Names and shapes of published checkpoints, beside everything of the detector under "detr.".
LINEARS = {f"bbox_attention.{name}_linear": (256, 256) for name in "qk"}
CONVOLUTIONS = {
    "mask_head.lay1": (264, 264, 3, 3),
    "mask_head.lay2": (128, 264, 3, 3),
    "mask_head.lay3": (64, 128, 3, 3),
    "mask_head.lay4": (32, 64, 3, 3),
    "mask_head.lay5": (16, 32, 3, 3),
    "mask_head.out_lay": (1, 16, 3, 3),
    "mask_head.adapter1": (128, 1024, 1, 1),
    "mask_head.adapter2": (64, 512, 1, 1),
    "mask_head.adapter3": (32, 256, 1, 1),
}
NORMS = {f"mask_head.gn{i}": (n,) for i, n in enumerate((264, 128, 64, 32, 16), start=1)}


@pytest.fixture
def build(args):
    """A small detector with a mask head, its criterion and postprocessors."""

    def built(*options):
        torch.manual_seed(0)
        return build_model(args(*TINY_MODEL, "--masks", *options))

    return built


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, *size, generator=generator) for size in ((70, 96), (64, 45))]


@pytest.fixture
def targets():
    """Three objects and one, on the padded size of `images`."""
    generator = torch.Generator().manual_seed(2)
    return [
        {
            "labels": torch.randint(90, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.4 + 0.2,
            "masks": torch.rand(n, height, width, generator=generator) > 0.6,
        }
        for n, height, width in ((3, 70, 96), (1, 64, 45))
    ]


# ---- names and shapes ----


def test_state_dict_is_that_of_published_checkpoints(args):
    plain, _, _ = build_model(args("--backbone_weights", "none"))
    model, _, _ = build_model(args("--backbone_weights", "none", "--masks"))
    shapes = {f"detr.{name}": value.shape for name, value in plain.state_dict().items()}
    for name, shape in (LINEARS | CONVOLUTIONS | NORMS).items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == {
        name: tuple(shape) for name, shape in shapes.items()
    }


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--backbone", "resnet34", "--hidden_dim", "64"],
        ["--backbone", "resnet50", "--dilation", "--position_embedding", "learned"],
        ["--no_aux_loss", "--nheads", "8", "--hidden_dim", "24", "--nheads", "3"],
    ],
)
def test_masks_of_two_images_of_different_size(build, images, options):
    model, _, _ = build(*options)
    with torch.no_grad():
        outputs = model.eval()(images)
    assert outputs["pred_masks"].shape == (2, 8, 18, 24)  # a quarter of 70 x 96, rounded up
    assert outputs["pred_masks"].isfinite().all() and outputs["pred_masks"].std() > 0
    assert ("aux_outputs" in outputs) == ("--no_aux_loss" not in options)


def test_masks_do_not_change_what_is_detected(build, args, images):
    model, _, _ = build()
    plain, _, _ = build_model(args(*TINY_MODEL))
    plain.load_state_dict(model.detr.state_dict())
    with torch.no_grad():
        found, alone = model.eval()(images), plain.eval()(images)
    assert torch.equal(found["pred_logits"], alone["pred_logits"])
    assert torch.equal(found["pred_boxes"], alone["pred_boxes"])


# ---- the head ----


def attention_loop(module, q, k, mask):
    """softmax over heads and places of (Wq q) . (Wk k) / sqrt(d), one query and head at a time."""
    queries, keys = module.q_linear(q), module.k_linear(k.permute(0, 2, 3, 1))
    depth = queries.shape[-1] // module.num_heads
    out = torch.empty(*q.shape[:2], module.num_heads, *k.shape[-2:])
    for b in range(q.shape[0]):
        for i in range(q.shape[1]):
            for head in range(module.num_heads):
                part = slice(head * depth, (head + 1) * depth)
                out[b, i, head] = keys[b, :, :, part] @ queries[b, i, part] / math.sqrt(depth)
                out[b, i, head][mask[b]] = -math.inf
            out[b, i] = out[b, i].exp() / out[b, i].exp().sum()
    return out


def test_attention_map_follows_the_formula():
    torch.manual_seed(0)
    module = MHAttentionMap(12, 16, 4)
    q, k = torch.randn(2, 5, 12), torch.randn(2, 12, 3, 4)
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[1, :, 2:] = True
    found = module(q, k, mask)
    torch.testing.assert_close(found, attention_loop(module, q, k, mask))
    torch.testing.assert_close(found.sum((2, 3, 4)), torch.ones(2, 5))


def head_by_query(head, x, attention, image, finer):
    """Each mask by itself: the image's maps beside the query's attention."""
    masks = []
    for of_query, i in zip(attention, image.tolist(), strict=True):
        y = torch.cat([x[i], of_query])[None]
        y = F.relu(head.gn1(head.lay1(y)))
        y = F.relu(head.gn2(head.lay2(y)))
        for stage, features in enumerate(finer, start=1):
            features = head.get_submodule(f"adapter{stage}")(features[i : i + 1])
            y = features + F.interpolate(y, size=features.shape[-2:], mode="nearest")
            y = head.get_submodule(f"lay{stage + 2}")(y)
            y = F.relu(head.get_submodule(f"gn{stage + 2}")(y))
        masks.append(head.out_lay(y)[0, 0])
    return torch.stack(masks)


@pytest.fixture
def head_case():
    torch.manual_seed(0)
    head = MaskHeadSmallConv(64 + 4, (24, 20, 12), 64)
    for parameter in head.parameters():  # norms and biases that do something
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(3, 64, 3, 5)
    finer = [torch.randn(3, c, h, w) for c, h, w in ((24, 5, 9), (20, 10, 17), (12, 19, 33))]
    image = torch.tensor([0, 0, 2, 1, 2, 2, 0])
    return head, (x, torch.rand(7, 4, 3, 5), image, finer)


def test_head_draws_each_mask_by_itself(head_case):
    head, inputs = head_case
    torch.testing.assert_close(head(*inputs), head_by_query(head, *inputs), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_head_in_parts_gives_the_same(head_case, monkeypatch, at_once):
    head, inputs = head_case
    monkeypatch.setattr(segmentation, "PIXELS_AT_ONCE", at_once * 19 * 33)
    with torch.no_grad():
        found = head(*inputs)
    torch.testing.assert_close(found, head_by_query(head, *inputs), atol=1e-5, rtol=1e-4)


def test_gradient_checkpointing_changes_no_gradient(head_case, monkeypatch):
    head, inputs = head_case
    monkeypatch.setattr(segmentation, "PIXELS_AT_ONCE", 2 * 19 * 33)
    gradients = []
    for kept in (False, True):
        head.gradient_checkpointing = kept
        head.zero_grad()
        head(*inputs).square().sum().backward()
        gradients.append([p.grad.clone() for p in head.parameters()])
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)


def test_gradients_are_the_same_twice_with_two_threads():
    """Many masks of one image add up their gradients; the order must not depend on threads."""
    torch.manual_seed(0)
    head = MaskHeadSmallConv(64 + 4, (24, 20, 12), 64)
    x = torch.randn(2, 64, 16, 20, requires_grad=True)
    finer = [
        torch.randn(2, c, h, w, requires_grad=True)
        for c, h, w in ((24, 16, 20), (20, 16, 20), (12, 32, 40))
    ]
    attention, image = torch.rand(16, 4, 16, 20), torch.tensor([0, 1] * 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = [
            torch.autograd.grad(
                head(x, attention, image, finer).square().sum(), [x, *finer, *head.parameters()]
            )
            for _ in range(4)
        ]
    finally:
        torch.set_num_threads(threads)
    for again in gradients[1:]:
        assert all(map(torch.equal, again, gradients[0]))


# ---- training ----


def test_training_draws_matched_queries_alone(build, images, targets):
    """Losses and gradients are those of drawing all."""
    model, criterion, _ = build("--dropout", "0")
    model.train()
    samples = nested_tensor_from_tensor_list(images)
    results = []
    for options in ({}, {"match": partial(criterion.match, targets=targets)}):
        model.zero_grad()
        outputs = model(samples, **options)
        losses = criterion(outputs, targets)
        (losses["loss_mask"] + losses["loss_dice"] + losses["loss_bbox"]).backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append((outputs["pred_masks"].shape, losses, gradients))
    (all_shape, all_losses, all_gradients), (shape, losses, gradients) = results
    assert all_shape == (2, 8, 18, 24) and shape == (4, 18, 24)
    assert losses.keys() == all_losses.keys() and gradients.keys() == all_gradients.keys()
    for name, value in losses.items():
        torch.testing.assert_close(value, all_losses[name], msg=name)
    for name, value in gradients.items():
        torch.testing.assert_close(value, all_gradients[name], atol=2e-4, rtol=1e-3, msg=name)


def test_a_batch_without_objects(build, images):
    model, criterion, _ = build()
    nothing = [
        {
            "labels": torch.zeros(0, dtype=torch.int64),
            "boxes": torch.zeros(0, 4),
            "masks": torch.zeros(0, *image.shape[1:], dtype=torch.bool),
        }
        for image in images
    ]
    outputs = model(images, partial(criterion.match, targets=nothing))
    losses = criterion(outputs, nothing)
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    sum(losses[name] for name in ("loss_ce", "loss_mask", "loss_dice")).backward()
    # All processes of a distributed run must have all gradients.
    assert all(p.grad is not None for p in model.mask_head.parameters())
    assert all(p.grad is not None for p in model.bbox_attention.parameters())


def test_a_frozen_detector_stays_as_it_is(build, images, targets):
    model, criterion, _ = build("--frozen_weights", "c.pth", "--dropout", "0.5")
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all(n.startswith(("bbox_attention.", "mask_head.")) for n in trained)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1)
    logits = model.eval()(images)["pred_logits"]
    model.train()
    outputs = model(images, partial(criterion.match, targets=targets))
    assert torch.equal(outputs["pred_logits"], logits)  # no dropout, no statistics of the batch
    losses = criterion(outputs, targets)
    sum(losses.values()).backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("detr."), name


def test_criterion_compares_the_matched_masks(build, images, targets):
    """Each query draws the object it answers for, here a stripe; others' stripes lie elsewhere."""
    model, criterion, _ = build()
    stripes = [[(0, 32), (32, 64), (64, 96)], [(0, 20)]]
    with torch.no_grad():
        outputs = model.eval()(images)
        matches = criterion.match(outputs, targets)[-1]
        drawn = torch.full_like(outputs["pred_masks"], -20)
        for i, (queries, things) in enumerate(matches):
            targets[i]["masks"] = torch.zeros_like(targets[i]["masks"])
            for thing, (left, right) in enumerate(stripes[i]):
                targets[i]["masks"][thing, :, left:right] = True
            for query, thing in zip(queries.tolist(), things.tolist(), strict=True):
                left, right = (edge // 4 for edge in stripes[i][thing])
                drawn[i, query, : len(images[i][0]) // 4, left:right] = 20
        found = criterion({**outputs, "pred_masks": drawn}, targets)
        wrong = criterion({**outputs, "pred_masks": drawn.roll(1, dims=1)}, targets)
    for name in ("loss_mask", "loss_dice"):
        assert found[name] < 0.05 * wrong[name], name
    assert {"loss_mask", "loss_dice", "loss_mask_0"} <= criterion.weight_dict.keys()
    assert "loss_mask_0" not in found
