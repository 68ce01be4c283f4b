"""--lr_schedule and --warmup, against rates computed by hand."""

import argparse
import copy
import math

import pytest
import torch
from torch import nn

from detection_task import DETECTION, build_optimizer, build_schedule, never_drops
from training.amp import Precision
from training.state import TrainState
from util.errors import UserError

OPTIONS = ("--lr", "0.5", "--lr_backbone", "0.25", "--epochs", "4", "--lr_drop", "3",
           "--backbone_weights", "none")  # fmt: skip


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Parameter(torch.ones(2))
        self.backbone = nn.Parameter(torch.ones(3))


class Run:
    """Steps of a run without images; notes the rates that AdamW has in each."""

    def __init__(self, args, checkpoint=None):
        self.model = Model()
        self.optimizer = build_optimizer(self.model, args)
        self.rates = []
        self.schedule = build_schedule(self.optimizer, args)
        self.optimizer.register_step_pre_hook(self._note)
        self.state = TrainState(
            DETECTION, self.model, self.optimizer, self.schedule,
            Precision("off", torch.device("cpu")), args,
        )  # fmt: skip
        if checkpoint is not None:
            self.state.load_state_dict(checkpoint, steps_per_epoch=3)

    def _note(self, optimizer, *_):
        self.rates.append([group["lr"] for group in optimizer.param_groups])

    def steps(self, count: int) -> None:
        for _ in range(count):
            for parameter in self.model.parameters():
                parameter.grad = torch.ones_like(parameter)
            self.optimizer.step()

    def epoch(self, steps: int = 1) -> None:
        self.steps(steps)
        self.schedule.step()
        self.state.complete_epoch({})
        self.state.finish_evaluation({"epoch": self.state.epoch})

    def checkpoint(self) -> dict:
        return copy.deepcopy(self.state.state_dict())


def test_cosine_is_half_a_period(args):
    run = Run(args(*OPTIONS, "--lr_schedule", "cosine"))
    for _ in range(4):
        run.epoch()
    half = math.sqrt(0.5)  # of pi / 4
    parts = [1, (1 + half) / 2, 0.5, (1 - half) / 2]
    assert run.rates == [pytest.approx([0.5 * part, 0.25 * part]) for part in parts]


def test_warm_up_grows_in_equal_parts(args):
    """Over epochs; in checkpoints and logs the rate is that of the schedule."""
    run = Run(args(*OPTIONS, "--warmup", "5"))
    run.epoch(steps=3)
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.5, 0.25]
    run.epoch(steps=4)
    parts = [0.2, 0.4, 0.6, 0.8, 1, 1, 1]
    assert run.rates == [pytest.approx([0.5 * part, 0.25 * part]) for part in parts]


def test_warm_up_goes_on_after_a_resume(args):
    options = args(*OPTIONS, "--warmup", "7", "--lr_schedule", "cosine")
    whole, first = Run(options), Run(options)
    whole.epoch(steps=3)
    first.epoch(steps=3)
    second = Run(options, first.checkpoint())
    second.model.load_state_dict(first.model.state_dict())
    for run in (whole, second):
        run.epoch(steps=3)
        run.epoch(steps=3)
    assert second.rates == whole.rates[3:]
    for own, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_steps_that_overflow_are_none_of_the_warm_up(args):
    """A resumed run counts those that AdamW made."""
    run = Run(args(*OPTIONS, "--warmup", "4"))
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    for value in (math.inf, 1.0, math.nan, 1.0):
        scaler.scale(torch.ones(()))
        for parameter in run.model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        scaler.step(run.optimizer)
        scaler.update()
    assert run.rates[1] == pytest.approx([0.125, 0.0625])
    assert run.rates[3] == pytest.approx([0.25, 0.125])


@pytest.mark.parametrize(
    ("frozen", "option"), [("detector.pth", "--frozen_weights"), (None, "--lr_backbone 0")]
)
def test_other_parameters_are_explained(args, frozen, option):
    options = args(*OPTIONS, "--resume", "old.pth")
    checkpoint = Run(options).checkpoint()
    checkpoint["args"] = argparse.Namespace(**{**vars(options), "frozen_weights": frozen})
    checkpoint["optimizer"]["param_groups"][1]["params"] = []
    said = f"old.pth: its optimizer trained other parameters; is {option} in one of the two runs"
    with pytest.raises(UserError, match=said):
        Run(options, checkpoint)


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        ("step", ("--lr_schedule", "cosine"), [0.5, (1 - math.sqrt(0.5)) / 2]),
        ("cosine", ("--lr_schedule", "step"), [1, 0.1]),
        ("cosine", ("--lr_schedule", "cosine", "--epochs", "3"), [0.25, 0]),
    ],
)
def test_a_schedule_that_changes_is_as_if_it_had_been_from_the_start(
    args, before, after, parts, capsys
):
    run = Run(args(*OPTIONS, "--lr_schedule", before))
    run.epoch()
    run.epoch()
    changed = Run(args(*OPTIONS, *after), run.checkpoint())
    assert "changed since the checkpoint" in capsys.readouterr().out
    changed.epoch()
    changed.epoch()
    assert changed.rates == [pytest.approx([0.5 * p, 0.25 * p], abs=1e-12) for p in parts]


def test_a_checkpoint_of_a_cosine_resumes_to_the_bit(args):
    options = args(*OPTIONS, "--lr_schedule", "cosine")
    whole = Run(options)
    whole.epoch()
    second = Run(options, whole.checkpoint())
    whole.epoch()
    second.epoch()
    assert second.rates == whole.rates[1:]
    assert second.schedule.state_dict() == whole.schedule.state_dict()


def test_a_rate_that_never_drops_is_said(args):
    assert never_drops(args("--epochs", "10", "--lr_drop", "9")) is None
    assert never_drops(args("--epochs", "10", "--lr_schedule", "cosine")) is None
    assert never_drops(args("--epochs", "10", "--lr_drop", "10")) == (
        "--lr_drop 10 is not before the end of --epochs 10: the learning rate never drops"
    )
