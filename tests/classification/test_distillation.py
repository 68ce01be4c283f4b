"""Losses of classifiers: targets, mixing, and what a teacher adds."""

import math

import pytest
import torch
from torch import nn

from classification.engine import Criterion, build_criterion, build_mixup
from tests.classification.classifier_runs import parse

LOGITS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
TAUGHT = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 3, 2, 1, 3])


class Teacher(nn.Module):
    """Knows the answer for images that are it."""

    def forward(self, images):
        return images


def softmax(row, tau=1.0):
    powers = [math.exp(value / tau) for value in row]
    return [power / sum(powers) for power in powers]


def by_hand() -> float:
    rows = [softmax(row) for row in LOGITS.tolist()]
    return -sum(math.log(row[label]) for row, label in zip(rows, LABELS)) / 5


def test_a_soft_teacher():
    images = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    criterion = Criterion(nn.CrossEntropyLoss(), Teacher(), "soft", alpha=0.3, tau=2.0)
    total = 0.0
    for taught, wanted in zip(TAUGHT.tolist(), images.tolist()):
        pairs = zip(softmax(taught, 2.0), softmax(wanted, 2.0))
        total += sum(q * (math.log(q) - math.log(p)) for p, q in pairs)
    wanted = 0.7 * by_hand() + 0.3 * 4 * total / 20
    assert criterion(images, (LOGITS, TAUGHT), LABELS).item() == pytest.approx(wanted, rel=1e-5)


def test_a_hard_teacher():
    images = torch.eye(4)[[1, 1, 0, 2, 3]]
    criterion = Criterion(nn.CrossEntropyLoss(), Teacher(), "hard", alpha=0.25)
    rows = [softmax(row) for row in TAUGHT.tolist()]
    taught = -sum(math.log(row[label]) for row, label in zip(rows, [1, 1, 0, 2, 3])) / 5
    wanted = 0.75 * by_hand() + 0.25 * taught
    assert criterion(images, (LOGITS, TAUGHT), LABELS).item() == pytest.approx(wanted, rel=1e-5)


def test_a_distilled_model_without_a_teacher_learns_its_labels():
    head = TAUGHT.clone().requires_grad_()
    loss = Criterion(nn.CrossEntropyLoss())(LOGITS, (LOGITS, head), LABELS)
    assert loss.item() == pytest.approx(by_hand(), rel=1e-5)
    loss.backward()
    assert (head.grad == 0).all()


@pytest.mark.parametrize(
    "options",
    [[], ["--mixup", 0], ["--cutmix", 0], ["--mixup", 0, "--cutmix", 0],
     ["--mixup", 0, "--cutmix", 0, "--smoothing", 0]],
)  # fmt: skip
def test_the_loss_fits_the_targets(options):
    args = parse("data", *options)
    args.num_classes = 4
    mix, criterion = build_mixup(args), build_criterion(args)
    assert (mix is None) == (args.mixup == args.cutmix == 0)
    images, targets = torch.randn(4, 3, 8, 8), LABELS[:4]
    if mix is not None:
        images, targets = mix(images, targets)
        assert targets.shape == (4, 4)
    loss = criterion(images, LOGITS[:4], targets)
    assert loss.dim() == 0 and loss.isfinite()
    smooth = torch.nn.functional.cross_entropy(
        LOGITS[:4], targets, label_smoothing=0.0 if mix is not None else args.smoothing
    )
    assert loss.item() == pytest.approx(smooth.item(), rel=1e-5)
