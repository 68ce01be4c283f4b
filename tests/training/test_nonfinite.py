"""Losses and gradients that are not finite stop a run before they reach the weights."""

import math

import pytest
import torch
from torch import nn

from datasets.loaders import build_loaders
from detection_task import build_optimizer
from engine import train_one_epoch
from models import build_model
from tests.helpers.commands import TINY_RUN
from util.errors import CommonError, UserError
from util.misc import collate_fn


class Outputs(nn.Module):
    """A model of one weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.25))

    def forward(self, samples):
        return self.weight


class RootOfDifference(nn.Module):
    """At 0 the root's value is finite, its gradient is not."""

    weight_dict = {"loss_root": 2.0}  # noqa: RUF012

    def forward(self, outputs, targets):
        root = (outputs - 0.25).abs().sqrt()
        return {"loss_root": root, "class_error": root.detach()}


@pytest.mark.parametrize("max_norm", [0.0, 0.1])
def test_a_gradient_that_breaks_leaves_the_weights(max_norm):
    model = Outputs()
    optimizer = torch.optim.AdamW(model.parameters())
    batch = collate_fn([(torch.zeros(3, 8, 8), {"image_id": torch.tensor(n)}) for n in (7, 9)])
    with pytest.raises(CommonError, match=r"gradient is not finite on images 7, 9 \(loss_root 0"):
        train_one_epoch(
            model, RootOfDifference(), [batch], optimizer, torch.device("cpu"), 0, max_norm
        )
    assert model.weight.item() == 0.25 and math.isfinite(model.weight.item())


def test_engine_stops_before_the_weights_break(shapes, args, monkeypatch):
    options = args(*TINY_RUN, "--coco_path", shapes)
    loader, _ = build_loaders(options)
    model, criterion, _ = build_model(options)
    optimizer = build_optimizer(model, options)
    criterion.weight_dict["loss_giou"] = float("inf")
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(UserError, match="not finite"):
        train_one_epoch(model, criterion, loader, optimizer, torch.device("cpu"), 0)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
