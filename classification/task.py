"""What training has to know of classification: parameter groups, schedule, and what is better."""

import argparse
from typing import Any

import torch
from timm.scheduler import create_scheduler_v2
from torch import nn

from training.early_stopping import Metric
from training.ema import UPDATES
from training.optimizer import load_optimizer
from training.state import Task
from util.schema import dict_of, plain_value, text

AVERAGE = "model_ema"  # the published checkpoint's name of averaged weights
IMAGES_OF_RATE = 512  # a step that --lr is for
NOT_DECAYED = ("pos_embed", "cls_token")


def scaled_rate(args: argparse.Namespace) -> float:
    """Return the learning rate for the images of a step, as published."""
    return args.lr * args.batch_size * args.world_size * args.accumulate / IMAGES_OF_RATE


def build_optimizer(model: nn.Module, args: argparse.Namespace) -> torch.optim.AdamW:
    """Build AdamW with the published groups: first what is not decayed, then the rest.

    Parameters of one dimension, biases, position embeddings and the class token are not decayed;
    the tables of encodings and the distillation token are.
    """
    groups: tuple[list, list] = ([], [])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim == 1 or name.endswith(".bias") or name in NOT_DECAYED
            groups[not plain].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[0], "weight_decay": 0.0},
            {"params": groups[1], "weight_decay": args.weight_decay},
        ],
        lr=scaled_rate(args),
        betas=betas(args),
        eps=args.opt_eps,
        fused=True,
    )


def betas(args: argparse.Namespace) -> tuple[float, float]:
    """Return the betas of AdamW."""
    return tuple(args.opt_betas) if args.opt_betas else (0.9, 0.999)


class EpochSchedule:
    """timm's schedule of learning rates, as the published command goes through it.

    It is told the number of an epoch when that is over, so that epochs 0 and 1 have the same rate
    and each later one that of timm's epoch before.

    Args:
        epochs: that are complete.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, args: argparse.Namespace, epochs: int = 0):
        self._optimizer = optimizer
        self.restart(args, epochs)

    def restart(self, args: argparse.Namespace, epochs: int) -> None:
        """Become the schedule of a run that had these options from its start."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] = scaled_rate(args)
        self._schedule, _ = create_scheduler_v2(
            self._optimizer,
            sched=args.sched,
            num_epochs=args.epochs,
            decay_epochs=args.decay_epochs,
            decay_rate=args.decay_rate,
            min_lr=args.min_lr,
            warmup_lr=args.warmup_lr,
            warmup_epochs=args.warmup_epochs,
            noise=args.lr_noise,
            noise_pct=args.lr_noise_pct,
            noise_std=args.lr_noise_std,
            noise_seed=args.seed,
        )
        self.epochs = epochs
        if epochs:
            self._schedule.step(epochs - 1)

    def step(self) -> None:
        """Count an epoch as complete, and set the rate of the next one."""
        self._schedule.step(self.epochs)
        self.epochs += 1

    def state_dict(self) -> dict[str, Any]:
        """Return timm's entries, as published."""
        return self._schedule.state_dict()


def load_schedule(
    optimizer: torch.optim.AdamW,
    lr_scheduler: EpochSchedule,
    model: nn.Module,
    checkpoint: dict,
    args: argparse.Namespace,
) -> dict[str, float]:
    """Load a checkpoint's optimizer; rates are those of a run that had `args` from its start.

    Rates depend on the options and the epoch alone, so that nothing of the checkpoint's schedule
    is needed.

    Returns:
        The options that the checkpoint's optimizer was made with, by name.

    Raises:
        UserError, ValueError: see `load_optimizer`.
    """
    load_optimizer(optimizer, model, checkpoint, args.resume)
    plain, decayed = optimizer.param_groups
    rate = scaled_rate(args)
    saved = decayed["initial_lr"]
    before = {
        # The published code keeps the scaled rate as its option.
        "lr": float(f"{saved * args.lr / rate:.12g}") if rate else saved,
        "weight_decay": decayed["weight_decay"],
        "opt_eps": decayed["eps"],
    }
    plain["weight_decay"], decayed["weight_decay"] = 0.0, args.weight_decay
    for group in optimizer.param_groups:
        group["betas"], group["eps"] = betas(args), args.opt_eps
    lr_scheduler.restart(args, checkpoint["epoch"] + 1)
    # The published code does not count how often weights were averaged: at each step.
    steps = [int(state["step"]) for state in checkpoint["optimizer"]["state"].values()]
    checkpoint.setdefault(UPDATES, max(steps, default=0))
    return before


TASK = Task(
    metrics=(Metric("acc1", "test_acc1"),),
    schedule=dict_of(text(100), plain_value(3), 1000),
    param_groups=2,
    load_schedule=load_schedule,
    keeps_checkpoint=lambda epoch, args: False,
)
