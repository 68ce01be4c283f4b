"""A model of a few numbers, its loss and its data, for tests of the training loop."""

import copy

import torch
from torch import nn

from training.consensus import Request
from util.misc import collate_fn

CPU = torch.device("cpu")


class Toy(nn.Module):
    """A model that maps the mean colour of an image to seven numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 7))

    def forward(self, samples):
        return self.layers(samples.tensors.mean((2, 3)))


class SquaredError(nn.Module):
    """A loss that is a mean over images: over equal batches, their mean is that of all images."""

    weight_dict = {"loss_square": 2.0}  # noqa: RUF012

    def forward(self, outputs, targets):
        wanted = torch.stack([target["wanted"] for target in targets])
        error = (outputs - wanted).square().sum(1).mean()
        return {"loss_square": error, "class_error": error.detach()}


def toy_images(count: int) -> list:
    random = torch.Generator().manual_seed(1)
    return [
        (torch.rand(3, 8, 8, generator=random),
         {"image_id": torch.tensor(i), "wanted": torch.rand(7, generator=random)})
        for i in range(count)
    ]  # fmt: skip


def batches(images: list, size: int) -> list:
    return [collate_fn(images[i : i + size]) for i in range(0, len(images), size)]


class Recorder:
    """A `StepHook` that keeps the weights after each step, and may ask to stop."""

    def __init__(self, model: nn.Module, signum: int = 0):
        self.model = model
        self.asked = []
        self.steps = []
        self.states = []
        self._request = Request(save=False, signum=signum)

    def request(self) -> Request:
        self.asked.append(len(self.steps))
        return self._request

    def on_step_end(self, agreed, metrics, batches) -> None:
        self.steps.append((agreed.signum, metrics.count, batches))
        self.states.append(copy.deepcopy(self.model.state_dict()))
