"""An evaluation stops when a process has to, one batch later: by then all of them know."""

import pytest
import torch
from torch import nn

from engine import evaluate
from training.consensus import Request
from util.misc import NestedTensor

CPU = torch.device("cpu")
BATCHES = 4


class Model(nn.Module):
    """Counts its batches."""

    seen = 0

    def forward(self, samples: NestedTensor) -> dict:
        self.seen += 1
        return {}


class Criterion(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight_dict = {"loss": 1}

    def forward(self, outputs: dict, targets: list[dict]) -> dict:
        return {"loss": torch.tensor(2.0), "class_error": torch.tensor(0.0)}


class Hook:
    """Wants to stop from the batch `wanted` on, counted from 1; stops by an exception."""

    def __init__(self, wanted: int):
        self.wanted = wanted
        self.asked = 0

    def request(self) -> Request:
        self.asked += 1
        return Request(signum=15 if self.asked >= self.wanted else 0)

    def on_batch_end(self, agreed: Request) -> None:
        if agreed.signum:
            raise InterruptedError(agreed.signum)


def batches() -> list:
    size = torch.tensor([2, 3])
    target = {"image_id": torch.tensor(1), "size": size, "orig_size": size}
    samples = NestedTensor(torch.zeros(1, 3, 2, 3), torch.zeros(1, 2, 3, dtype=torch.bool))
    return [(samples, [target])] * BATCHES


@pytest.mark.parametrize(("wanted", "seen"), [(1, 2), (2, 3), (4, 4)])
def test_it_ends_a_batch_after_the_signal(wanted, seen):
    model = Model()
    with pytest.raises(InterruptedError, match="15"):
        evaluate(model, Criterion(), {}, batches(), None, CPU, hook=Hook(wanted))
    assert model.seen == seen


def test_without_a_signal_it_goes_to_its_end():
    model = Model()
    stats, _ = evaluate(model, Criterion(), {}, batches(), None, CPU, hook=Hook(BATCHES + 1))
    assert model.seen == BATCHES and stats["loss"] == 2
