"""Matching, losses and detections against loops written from the formulas."""

import itertools

import pytest
import torch

from models import build_model
from models.criterion import SetCriterion
from models.matcher import HungarianMatcher
from models.postprocess import PostProcess
from tests.helpers.commands import TINY_MODEL
from tests.helpers.two_processes import in_two_processes

CLASSES, QUERIES = 5, 4
EOS = 0.1


@pytest.fixture
def batch():
    """Three images: two objects, none, one."""
    generator = torch.Generator().manual_seed(3)

    def layer():
        return {
            "pred_logits": torch.randn(3, QUERIES, CLASSES + 1, generator=generator),
            "pred_boxes": torch.rand(3, QUERIES, 4, generator=generator) * 0.4 + 0.2,
        }

    targets = [
        {
            "labels": torch.randint(CLASSES, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.4 + 0.2,
            "image_id": torch.tensor(i),
        }
        for i, n in enumerate((2, 0, 1))
    ]
    return {**layer(), "aux_outputs": [layer(), layer()]}, targets


def corners(box):
    cx, cy, w, h = box.tolist()
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def giou(a, b):
    a, b = corners(a), corners(b)

    def area(x0, y0, x1, y1):
        return max(x1 - x0, 0) * max(y1 - y0, 0)

    shared = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - shared
    hull = area(min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
    return shared / union - (hull - union) / hull


def cost(outputs, target, image, query, thing):
    probability = outputs["pred_logits"][image, query].softmax(0)[target["labels"][thing]].item()
    box, wanted = outputs["pred_boxes"][image, query], target["boxes"][thing]
    return 5 * (box - wanted).abs().sum().item() - probability - 2 * giou(box, wanted)


def best_matches(outputs, targets):
    """Return {(image, query): object} of the best of all assignments."""
    matches = {}
    for image, target in enumerate(targets):
        things = range(len(target["labels"]))
        best = min(
            itertools.permutations(range(QUERIES), len(things)),
            key=lambda queries: sum(
                cost(outputs, target, image, q, t) for q, t in zip(queries, things, strict=True)
            ),
        )
        matches.update(((image, q), t) for q, t in zip(best, things, strict=True))
    return matches


def test_matching_is_the_cheapest(batch):
    outputs, targets = batch
    for layer in (outputs, *outputs["aux_outputs"]):
        found = {
            (image, q): t
            for image, (queries, things) in enumerate(HungarianMatcher(1, 5, 2)(layer, targets))
            for q, t in zip(queries.tolist(), things.tolist(), strict=True)
        }
        assert found == best_matches(layer, targets)


def loop_losses(outputs, targets):
    matches = best_matches(outputs, targets)
    total = weight_sum = l1 = overlap = wrong = 0
    for image, query in itertools.product(range(3), range(QUERIES)):
        logits = outputs["pred_logits"][image, query]
        thing = matches.get((image, query))
        label = CLASSES if thing is None else targets[image]["labels"][thing].item()
        weight = EOS if thing is None else 1
        total -= weight * logits.log_softmax(0)[label].item()
        weight_sum += weight
        if thing is not None:
            box, wanted = outputs["pred_boxes"][image, query], targets[image]["boxes"][thing]
            l1 += (box - wanted).abs().sum().item()
            overlap += 1 - giou(box, wanted)
            wrong += logits.argmax().item() != label
    counts = [
        abs(sum(logits.argmax().item() != CLASSES for logits in image) - len(t["labels"]))
        for image, t in zip(outputs["pred_logits"], targets, strict=True)
    ]
    return {
        "loss_ce": total / weight_sum,
        "loss_bbox": l1 / 3,
        "loss_giou": overlap / 3,
        "class_error": 100 * wrong / 3,
        "cardinality_error": sum(counts) / 3,
    }


def criterion():
    return SetCriterion(CLASSES, HungarianMatcher(1, 5, 2), {}, EOS)


def test_losses_equal_the_loop(batch):
    outputs, targets = batch
    losses = criterion()(outputs, targets)
    wanted = loop_losses(outputs, targets)
    for i, layer in enumerate(outputs["aux_outputs"]):
        of_layer = loop_losses(layer, targets)
        del of_layer["class_error"]
        wanted.update((f"{name}_{i}", value) for name, value in of_layer.items())
    assert set(losses) == set(wanted)
    for name, value in wanted.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-5), name


def losses_as(rank: int, outputs: dict, targets: list[dict]) -> tuple[dict, dict]:
    """Return losses with the normalisation of this process, and of both; rank 1 has one image."""
    if rank == 1:
        outputs = {k: v[:1] for k, v in outputs.items() if k != "aux_outputs"}
        targets = targets[:1]
    return criterion().eval()(outputs, targets), criterion().train()(outputs, targets)


def test_processes_divide_by_their_mean_number_of_boxes(batch, tmp_path):
    """One process has three boxes, the other two: both divide by the mean, 2.5."""
    told = in_two_processes(losses_as, tmp_path, *batch)
    for count, (alone, together) in zip((3, 2), told, strict=True):
        for name in ("loss_bbox", "loss_giou"):
            wanted = alone[name].item() * count / 2.5
            assert together[name].item() == pytest.approx(wanted, rel=1e-5)
        assert together["loss_ce"] == alone["loss_ce"]


def test_costs_and_coefficients_go_where_they_belong(args):
    options = {
        "set_cost_class": 1.5, "set_cost_bbox": 2.5, "set_cost_giou": 3.5, "bbox_loss_coef": 4.5,
        "giou_loss_coef": 5.5, "mask_loss_coef": 6.5, "dice_loss_coef": 7.5, "eos_coef": 0.3,
    }  # fmt: skip
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    _, built, _ = build_model(args(*TINY_MODEL, "--masks", *given))
    matcher = built.matcher
    assert (matcher.cost_class, matcher.cost_bbox, matcher.cost_giou) == (1.5, 2.5, 3.5)
    weights = {"ce": 1, "bbox": 4.5, "giou": 5.5, "mask": 6.5, "dice": 7.5}
    assert built.weight_dict == {
        f"loss_{name}{suffix}": value for name, value in weights.items() for suffix in ("", "_0")
    }
    assert built.class_weight.tolist() == pytest.approx([1] * 91 + [0.3])


@pytest.mark.parametrize("costs", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_each_cost_alone(batch, costs):
    """The query of the least cost of one kind gets the object."""
    outputs, targets = batch
    target = targets[2]
    probability = outputs["pred_logits"][2].softmax(-1)[:, target["labels"][0]]
    distances = [(box - target["boxes"][0]).abs().sum() for box in outputs["pred_boxes"][2]]
    overlaps = [giou(box, target["boxes"][0]) for box in outputs["pred_boxes"][2]]
    best = {
        (1, 0, 0): probability.argmax().item(),
        (0, 1, 0): distances.index(min(distances)),
        (0, 0, 1): overlaps.index(max(overlaps)),
    }
    queries, _ = HungarianMatcher(*costs)(outputs, targets)[2]
    assert queries.tolist() == [best[costs]]


def test_class_error_is_that_of_the_last_layer(batch):
    """One of three objects is taken for another class there, and two in the first layer."""
    _, targets = batch

    def layer(*wrong):
        logits = torch.zeros(3, QUERIES, CLASSES + 1)
        boxes = torch.full((3, QUERIES, 4), 0.1)
        for number, (image, thing) in enumerate(((0, 0), (0, 1), (2, 0))):
            label = targets[image]["labels"][thing]
            logits[image, thing, (label + (number in wrong)) % CLASSES] = 9
            boxes[image, thing] = targets[image]["boxes"][thing]
        return {"pred_logits": logits, "pred_boxes": boxes}

    losses = criterion()({**layer(1), "aux_outputs": [layer(0, 2), layer()]}, targets)
    assert losses["class_error"].item() == pytest.approx(100 / 3)


def test_a_batch_without_objects_still_teaches_no_object(batch):
    outputs, targets = batch
    outputs = {k: v[1:2].requires_grad_() for k, v in outputs.items() if k != "aux_outputs"}
    losses = criterion()(outputs, targets[1:2])
    assert losses["loss_bbox"] == losses["loss_giou"] == 0
    sum(losses[k] for k in ("loss_ce", "loss_bbox", "loss_giou")).backward()
    assert outputs["pred_logits"].grad.abs().sum() > 0
    assert all(value.isfinite() for value in losses.values())


def test_more_objects_than_queries(batch):
    outputs, _ = batch
    many = {
        "labels": torch.zeros(7, dtype=torch.int64),
        "boxes": torch.rand(7, 4) * 0.4 + 0.2,
        "image_id": torch.tensor(0),
    }
    queries, things = HungarianMatcher(1, 5, 2)(
        {k: v[:1] for k, v in outputs.items() if k != "aux_outputs"}, [many]
    )[0]
    assert sorted(queries.tolist()) == list(range(QUERIES)) and len(set(things.tolist())) == QUERIES


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["pred_logits", "pred_boxes"])
def test_one_prediction_that_is_not_finite_makes_the_loss_so(batch, name, value):
    """The criterion raises nothing: the processes find out together, from the loss."""
    outputs, targets = batch
    outputs[name][2, 1, 0] = value
    losses = criterion()(outputs, targets)
    assert not sum(losses[k] for k in ("loss_ce", "loss_bbox", "loss_giou")).isfinite()


def test_detections(batch):
    outputs, _ = batch
    sizes = torch.tensor([[100, 200], [50, 60], [10, 20]])
    for image, found in enumerate(PostProcess()(outputs, sizes)):
        height, width = sizes[image].tolist()
        for query in range(QUERIES):
            probability = outputs["pred_logits"][image, query].softmax(0)[:CLASSES]
            assert found["labels"][query] == probability.argmax()
            assert found["scores"][query] == pytest.approx(probability.max().item())
            x0, y0, x1, y1 = corners(outputs["pred_boxes"][image, query])
            wanted = [x0 * width, y0 * height, x1 * width, y1 * height]
            assert found["boxes"][query].tolist() == pytest.approx(wanted, rel=1e-4)
