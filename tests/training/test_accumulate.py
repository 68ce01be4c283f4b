"""--accumulate: steps of the mean gradient of several batches, on a model of a few numbers."""

import copy
import math

import pytest
import torch
from torch import nn

from engine import train_one_epoch
from tests.helpers.toy_training import CPU, Recorder, SquaredError, Toy, batches, toy_images
from tests.helpers.two_processes import in_two_processes
from util.errors import CommonError


def train_toy(data: list, accumulate: int = 1, max_norm: float = 0) -> tuple[nn.Module, Recorder]:
    model = Toy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    recorder = Recorder(model, signum=3)
    train_one_epoch(
        model, SquaredError(), data, optimizer, CPU, 0, max_norm, hook=recorder,
        accumulate=accumulate,
    )  # fmt: skip
    return model, recorder


def assert_close(model: nn.Module, wanted: nn.Module) -> None:
    for name, value in wanted.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("max_norm", [0, 0.1])
def test_two_batches_of_two_are_one_of_four(max_norm):
    """Also at the end of the epoch, where one batch is left."""
    images = toy_images(10)
    wanted, _ = train_toy(batches(images, 4), max_norm=max_norm)
    found, recorder = train_toy(batches(images, 2), accumulate=2, max_norm=max_norm)
    assert_close(found, wanted)
    # Stopping is for the end of a step; everybody is asked before each batch, as without.
    assert recorder.steps == [(3, 2, 2), (3, 4, 2), (3, 5, 1)]
    assert recorder.asked == [0, 0, 1, 1, 2]
    other, _ = train_toy(batches(images, 2), max_norm=max_norm)
    assert not torch.allclose(other.layers[0].weight, wanted.layers[0].weight, atol=1e-3)


def test_a_group_that_begins_in_the_middle_of_an_epoch():
    """A run that goes on after two batches makes the same groups of those that are left."""
    images = toy_images(10)
    _, whole = train_toy(batches(images, 2), accumulate=2)
    model = Toy()
    model.load_state_dict(whole.states[0])
    rest = batches(images, 2)[2:]
    recorder = Recorder(model)
    train_one_epoch(
        model, SquaredError(), rest, torch.optim.AdamW(model.parameters()), CPU, 0,
        steps_before=2, hook=recorder, accumulate=2,
    )  # fmt: skip
    assert [step[2] for step in recorder.steps] == [2, 1]


def test_a_loss_that_breaks_in_a_group_leaves_the_weights_before_it():
    images = toy_images(8)
    images[7][1]["wanted"][0] = math.nan
    before, _ = train_toy(batches(images[:4], 2), accumulate=2)
    model = Toy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with pytest.raises(CommonError, match=r"loss is not finite on images 6, 7 \(loss_square nan"):
        train_one_epoch(model, SquaredError(), batches(images, 2), optimizer, CPU, 0, accumulate=2)
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


class RootOfDifference(nn.Module):
    """Its gradient is not finite where the outputs are what is wanted."""

    weight_dict = {"loss_root": 1.0}  # noqa: RUF012

    def forward(self, outputs, targets):
        scale = torch.tensor([float(target["image_id"] == 0) for target in targets])
        root = ((outputs - outputs.detach()).abs().sum(1) * scale + 1 - scale).sqrt().mean()
        return {"loss_root": root, "class_error": root.detach()}


def test_a_gradient_that_breaks_names_the_images_of_the_whole_group():
    model = Toy()
    optimizer = torch.optim.AdamW(model.parameters())
    before = copy.deepcopy(model.state_dict())
    says = r"gradient is not finite on images 0, 1, 2 \(loss_root 0.6667"
    with pytest.raises(CommonError, match=says):
        train_one_epoch(
            model, RootOfDifference(), batches(toy_images(3), 1), optimizer, CPU, 0, accumulate=3
        )
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def train_in_parallel(rank: int) -> dict:
    """Train as one of two processes; counts how often gradients are all-reduced."""
    model = Toy()
    wrapped = nn.parallel.DistributedDataParallel(model)
    exchanges = []

    def exchange(_, bucket):
        exchanges.append(bucket.index())
        flat = bucket.buffer().div_(2)
        return (
            torch.distributed.all_reduce(flat, async_op=True)
            .get_future()
            .then(lambda future: future.value()[0])
        )

    wrapped.register_comm_hook(None, exchange)
    mine = batches(toy_images(20)[rank::2], 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    train_one_epoch(wrapped, SquaredError(), mine, optimizer, CPU, 0, accumulate=2)
    return {"model": model.state_dict(), "exchanges": exchanges}


def test_two_processes_exchange_the_gradients_of_a_group_once(tmp_path):
    told = in_two_processes(train_in_parallel, tmp_path)
    assert told[0]["exchanges"] == [0, 0, 0]  # 5 batches, one bucket
    images = toy_images(20)
    wanted, _ = train_toy(batches(images, 8))
    for name, value in wanted.state_dict().items():
        assert torch.equal(told[0]["model"][name], told[1]["model"][name])
        torch.testing.assert_close(told[0]["model"][name], value, atol=1e-5, rtol=1e-5)
