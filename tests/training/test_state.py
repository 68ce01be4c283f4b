"""The state that a run resumes with: random numbers, place in the epoch, sums, log; its end."""

import copy
import json
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

from detection_task import DETECTION, build_optimizer
from tests.helpers.toy_training import CPU
from training.amp import Precision
from training.log import LogFile, read_log
from training.random_state import random_state, restore_random_state, seed_all
from training.state import TrainState


@pytest.fixture
def state_of(args):
    """Return state_of(*options): the state of a run that has not begun."""

    def build(*options) -> TrainState:
        parsed = args("--epochs", "9", "--batch_size", "2", *options)
        model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
        optimizer = build_optimizer(model, parsed)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        schedule = StepLR(optimizer, parsed.lr_drop)
        return TrainState(DETECTION, model, optimizer, schedule, Precision("off", CPU), parsed)

    return build


def numbers() -> list[float]:
    return [random.random(), np.random.rand(), torch.rand(()).item()]  # noqa: NPY002


def test_random_numbers_go_on():
    seed_all(5)
    numbers()
    kept = copy.deepcopy(random_state(CPU))
    wanted = [numbers(), numbers()]
    seed_all(7)
    restore_random_state(kept, CPU)
    assert [numbers(), numbers()] == wanted
    seed_all(5)
    assert numbers() != wanted[0]


def test_a_run_goes_on_within_an_epoch(state_of):
    before = state_of()
    before.complete_epoch({"epoch": 0})
    before.finish_evaluation({"epoch": 0, "train_loss": 1.5})
    before.step = 3
    for loss in (1.0, 2.0, 6.0):
        before.metrics.update({"loss": torch.tensor(loss)})
    torch.manual_seed(3)
    checkpoint = copy.deepcopy(before.state_dict())
    wanted = numbers()[2]
    after = state_of()
    after.load_state_dict(checkpoint, steps_per_epoch=10)
    assert (after.epoch, after.step, after.pending) == (0, 3, None)
    assert after.metrics.means() == {"loss": 3.0}
    assert after.log == [{"epoch": 0, "train_loss": 1.5}]
    assert torch.rand(()).item() == wanted


@pytest.mark.parametrize(("batch_size", "step"), [("2", 6), ("3", 4), ("4", 3), ("5", 2), ("1", 9)])
def test_another_batch_size_goes_on_after_as_many_images(state_of, batch_size, step):
    """12 images are done; no more steps than an epoch has."""
    before = state_of()
    before.step = 6
    checkpoint = copy.deepcopy(before.state_dict())
    checkpoint["args"].batch_size = 2
    after = state_of("--batch_size", batch_size)
    after.load_state_dict(checkpoint, steps_per_epoch=9)
    assert after.step == step


def test_early_stop(state_of):
    """After the second evaluation that is not better than the best; 0 never stops."""
    state, endless = state_of("--early_stop", "2"), state_of("--early_stop", "0")
    finished = []
    for epoch, ap in enumerate((0.1, 0.3, 0.2, 0.3, 0.1)):
        for run in (state, endless):
            run.complete_epoch({})
            assert not run.is_finished()  # it is not evaluated yet
            run.finish_evaluation({"epoch": epoch, "test_coco_eval_bbox": [ap]})
        finished.append(state.is_finished())
        assert not endless.is_finished()
    assert finished == [False, False, False, True, True]
    what = f"AP of boxes 0.3000 of epoch 2/{state.args.epochs}"
    assert state.why_finished()[0] == f"3 evaluation(s) not better than {what}"


def test_an_epoch_is_in_the_log_once(tmp_path):
    log = LogFile(tmp_path / "log.txt")
    for row in ({"epoch": 0, "a": 1}, {"epoch": 1}, {"epoch": 1, "a": 2}, {"epoch": 2}):
        log.append(row)
    assert log.read(1) == ([{"epoch": 0, "a": 1}, {"epoch": 1}], True)
    assert read_log(log.path)[0][1] == {"epoch": 1, "a": 2}
    log.write([{"epoch": 0, "a": 1}])
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [
        {"epoch": 0, "a": 1}
    ]
    with log.path.open("a") as file:
        file.write('{"epoch": 1, "a"')  # a stop in the middle of writing
    assert log.read(5) == ([{"epoch": 0, "a": 1}], False)
