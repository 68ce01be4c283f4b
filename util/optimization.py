"""Optimizer and learning rate schedule, made anew or gone on with."""

import argparse

import torch
from torch.optim.lr_scheduler import StepLR

from util.errors import UserError

# Options that state dicts of optimizer and schedule would otherwise bring back.
SCHEDULE_OPTIONS = ("lr", "lr_backbone", "weight_decay", "lr_drop")


def build_optimizer(model: torch.nn.Module, args: argparse.Namespace) -> torch.optim.AdamW:
    """AdamW with two groups of parameters: without and with "backbone" in their names."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trained if "backbone" not in name]},
        {"params": [p for name, p in trained if "backbone" in name], "lr": args.lr_backbone},
    ]
    return torch.optim.AdamW(groups, lr=args.lr, weight_decay=args.weight_decay, fused=True)


def load_schedule(
    optimizer: torch.optim.AdamW, lr_scheduler: StepLR, checkpoint: dict, args: argparse.Namespace
) -> dict[str, float]:
    """Go on with the checkpoint's optimizer and schedule, under the options of `args`.

    Where an option differs from the checkpoint's, the learning rates are those of a run that had
    the options of `args` from its start. Otherwise everything is as in the checkpoint, to the bit.

    Returns:
        The checkpoint's own values of SCHEDULE_OPTIONS.

    Raises:
        UserError: the checkpoint's optimizer has other parameters.
        ValueError: its state is damaged.
    """
    try:
        optimizer.load_state_dict(checkpoint["optimizer"])
        lr_scheduler.load_state_dict(checkpoint["lr_scheduler"])
    except (ValueError, KeyError) as error:
        raise UserError(
            f"--resume {args.resume}: its optimizer trained other parameters ({error}); "
            "is --lr_backbone 0 in one of the two runs?"
        ) from error
    _own_moments(optimizer)
    groups = optimizer.param_groups
    before = {
        "lr": groups[0]["initial_lr"],
        "lr_backbone": groups[1]["initial_lr"],
        "weight_decay": groups[0]["weight_decay"],
        "lr_drop": lr_scheduler.step_size,
    }
    for group in groups:
        group["weight_decay"] = args.weight_decay
    if any(before[name] != getattr(args, name) for name in ("lr", "lr_backbone", "lr_drop")):
        lr_scheduler.step_size = args.lr_drop
        lr_scheduler.base_lrs = [args.lr, args.lr_backbone]
        drops = lr_scheduler.last_epoch // args.lr_drop
        for group, lr in zip(groups, lr_scheduler.base_lrs, strict=True):
            group["initial_lr"] = lr
            group["lr"] = lr * lr_scheduler.gamma**drops
    return before


def _own_moments(optimizer: torch.optim.AdamW) -> None:
    """Copy the moments into tensors that lie in memory as their parameters do.

    The fused optimizer trusts them to: it would write beyond a tensor of another shape.
    """
    for parameter, state in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            loaded = state[name]
            if loaded.shape != parameter.shape or not loaded.isfinite().all():
                raise ValueError(f"{name} of a parameter {tuple(parameter.shape)} is damaged")
            state[name] = torch.empty_like(parameter).copy_(loaded)
