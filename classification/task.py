"""What training has to know of classification: parameter groups, schedule, and what is better."""

import argparse
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import create_scheduler_v2
from torch import nn

from training.checkpoint_content import ADAMW, ANY_OPTIMIZER
from training.early_stopping import Metric
from training.ema import UPDATES
from training.optimizer import load_optimizer
from training.state import Task
from util.errors import UserError, one_line
from util.schema import dict_of, plain_value, text

AVERAGE = "model_ema"  # the published checkpoint's name of averaged weights
IMAGES_OF_RATE = 512  # a step that --lr is for
NOT_DECAYED = ("pos_embed", "cls_token")
REFUSED = {  # of timm's optimizers, by how their names begin
    "adahessian": "it needs the gradient of the gradient",
    "kron": "it draws random numbers of its own, which checkpoints do not hold",
}
NEED_PACKAGES = ("bnb", "fused")  # beginnings of names; and a GPU
# Options of the command, and what groups of an optimizer call them.
GROUP_OPTIONS = {"weight_decay": "weight_decay", "opt_eps": "eps", "momentum": "momentum"}


def scaled_rate(args: argparse.Namespace) -> float:
    """Return the learning rate for the images of a step, as published."""
    return args.lr * args.batch_size * args.world_size * args.accumulate / IMAGES_OF_RATE


def check_optimizer(args: argparse.Namespace) -> dict[str, str]:
    """Check --opt and the options that it takes.

    Returns:
        Options that it does not take, and why they change nothing.

    Raises:
        UserError: timm has no such optimizer, or it cannot be used here.
    """
    names = [str(name) for name in list_optimizers()]  # without descriptions
    known = [name for name in names if not name.startswith(NEED_PACKAGES)]
    if args.opt not in names:
        raise UserError(f"--opt {args.opt}: timm has no such optimizer; it has {', '.join(known)}")
    for beginning, reason in REFUSED.items():
        if args.opt.startswith(beginning):
            raise UserError(f"--opt {args.opt} cannot be used: {reason}")
    count = 3 if "adan" in args.opt else 2
    if args.opt_betas and not (
        len(args.opt_betas) == count and all(0 <= beta < 1 for beta in args.opt_betas)
    ):
        raise UserError(f"--opt-betas takes {count} numbers below 1 with --opt {args.opt}")
    info = get_optimizer_info(args.opt)
    takes = {
        "momentum": info.has_momentum, "opt_betas": info.has_betas, "opt_eps": info.has_eps,
    }  # fmt: skip
    return {name: f"{args.opt} takes none" for name, taken in takes.items() if not taken}


def build_optimizer(model: nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    """Build --opt with the published groups: first what is not decayed, then the rest.

    Parameters of one dimension, biases, position embeddings and the class token are not decayed;
    the tables of encodings and the distillation token are.

    Raises:
        UserError: the optimizer cannot be made with these options.
    """
    groups: tuple[list, list] = ([], [])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim == 1 or name.endswith(".bias") or name in NOT_DECAYED
            groups[not plain].append(parameter)
    decays = (0.0, args.weight_decay)
    params = [{"params": group, "weight_decay": decay} for group, decay in zip(groups, decays)]
    options: dict[str, Any] = {"lr": scaled_rate(args), "eps": args.opt_eps}
    if args.opt_betas:
        options["betas"] = tuple(args.opt_betas)
    if args.opt == "adamw":
        return torch.optim.AdamW(params, **options, fused=True)
    try:
        return create_optimizer_v2(params, args.opt, momentum=args.momentum, **options)
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"--opt {args.opt}: cannot be made with these options ({one_line(str(error), 300)})"
        ) from error


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
    optimizer: torch.optim.Optimizer,
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
    kind = getattr(checkpoint.get("args"), "opt", "adamw")
    if kind != args.opt:
        raise UserError(f"--resume {args.resume}: was trained with --opt {kind}, not {args.opt}")
    own = [dict(group) for group in optimizer.param_groups]
    load_optimizer(optimizer, model, checkpoint, args.resume)
    decayed = checkpoint["optimizer"]["param_groups"][1]
    saved, options = decayed["initial_lr"], vars(checkpoint.get("args") or argparse.Namespace())
    if "accumulate" in options:
        before = {"lr": options["lr"]}
    else:  # the published code keeps the scaled rate as its option
        rate = scaled_rate(args)
        before = {"lr": float(f"{saved * args.lr / rate:.12g}") if rate else saved}
    before |= {name: decayed[key] for name, key in GROUP_OPTIONS.items() if key in decayed}
    for group, options in zip(optimizer.param_groups, own, strict=True):
        group.update(
            {key: options[key] for key in ("betas", *GROUP_OPTIONS.values()) if key in options}
        )
    lr_scheduler.restart(args, checkpoint["epoch"] + 1)
    # The published code does not count how often weights were averaged: at each step. Not every
    # optimizer counts steps, and not in the same place; there was one at least in each epoch.
    groups = checkpoint["optimizer"]["param_groups"]
    counts = (*checkpoint["optimizer"]["state"].values(), *groups)
    steps = [int(count.get("step", 0)) for count in counts]
    checkpoint.setdefault(UPDATES, max(steps) or checkpoint["epoch"] + 1)
    return before


TASK = Task(
    metrics=(Metric("acc1", "test_acc1"),),
    schedule=dict_of(text(100), plain_value(3), 1000),
    param_groups=2,
    load_schedule=load_schedule,
    keeps_checkpoint=lambda epoch, args: False,
    optimizer=lambda args: ADAMW if args.opt == "adamw" else ANY_OPTIMIZER,
)
