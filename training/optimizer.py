"""Optimizer and learning rate schedule, made anew or gone on with."""

import argparse

import torch
from torch import Tensor
from torch.optim.lr_scheduler import StepLR

from util.errors import UserError

# Options that state dicts of optimizer and schedule would otherwise bring back.
SCHEDULE_OPTIONS = ("lr", "lr_backbone", "weight_decay", "lr_drop")
# What is taken from a checkpoint; versions of PyTorch differ in what else is there.
GROUP_VALUES = ("lr", "initial_lr", "betas", "eps", "weight_decay")
SCHEDULE_VALUES = ("step_size", "gamma", "base_lrs", "last_epoch", "_step_count", "_last_lr")
MOMENTS = {"exp_avg", "exp_avg_sq"}


def build_optimizer(model: torch.nn.Module, args: argparse.Namespace) -> torch.optim.AdamW:
    """AdamW with two groups of parameters: without and with "backbone" in their names."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trained if "backbone" not in name]},
        {"params": [p for name, p in trained if "backbone" in name], "lr": args.lr_backbone},
    ]
    return torch.optim.AdamW(groups, lr=args.lr, weight_decay=args.weight_decay, fused=True)


def load_schedule(
    optimizer: torch.optim.AdamW,
    lr_scheduler: StepLR,
    model: torch.nn.Module,
    checkpoint: dict,
    args: argparse.Namespace,
) -> dict[str, float]:
    """Go on with the checkpoint's optimizer and schedule, under the options of `args`.

    Where an option differs from the checkpoint's, the learning rates are those of a run that had
    the options of `args` from its start. Otherwise everything is as in the checkpoint, to the bit.

    Args:
        optimizer: of `build_optimizer`, for `model`.
        checkpoint: checked by `models.checkpoint_content.check_training`.

    Returns:
        The checkpoint's own values of SCHEDULE_OPTIONS.

    Raises:
        UserError: the checkpoint's optimizer has other parameters.
        ValueError: moments of a parameter are not of its shape.
    """
    saved, schedule = checkpoint["optimizer"], checkpoint["lr_scheduler"]
    names = _parameter_names(optimizer, model)
    optimizer.load_state_dict(
        {
            "state": saved["state"],
            "param_groups": [
                # How it is computed (fused, ...) is decided by this run.
                {**own, **{name: group[name] for name in GROUP_VALUES}, "params": numbers}
                for own, group, numbers in zip(
                    optimizer.state_dict()["param_groups"],
                    saved["param_groups"],
                    _numbers_of(names, saved["param_groups"], checkpoint["model"], args.resume),
                    strict=True,
                )
            ],
        }
    )
    _own_moments(optimizer, names)
    lr_scheduler.load_state_dict({n: schedule[n] for n in SCHEDULE_VALUES if n in schedule})
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


def _parameter_names(optimizer: torch.optim.AdamW, model: torch.nn.Module) -> list[list[str]]:
    """Names of the parameters of each group, in its order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [[names[p] for p in group["params"]] for group in optimizer.param_groups]


def _numbers_of(
    names: list[list[str]], saved_groups: list[dict], weights: dict[str, Tensor], given: str
) -> list[list[int]]:
    """The checkpoint's numbers of the parameters `names`, of each group.

    An optimizer numbers parameters in the order in which the model's modules were registered. Code
    that registers them in another order, such as the published one, writes its weights in that
    order, too.

    Args:
        given: the checkpoint, as the user named it.

    Raises:
        UserError: it has not as many.
    """
    if [len(group) for group in names] != [len(group["params"]) for group in saved_groups]:
        raise UserError(
            f"--resume {given}: its optimizer trained other parameters; is --lr_backbone 0 in one "
            "of the two runs?"
        )
    numbers = []
    for group, saved in zip(names, saved_groups, strict=True):
        trained = set(group)
        there = [name for name in weights if name in trained]
        number_of = dict(zip(there, saved["params"], strict=True))
        numbers.append([number_of[name] for name in group])
    return numbers


def _own_moments(optimizer: torch.optim.AdamW, names: list[list[str]]) -> None:
    """Copy the moments into tensors that lie in memory as their parameters do.

    The fused optimizer trusts them to: it would write beyond a tensor of another shape.
    """
    for group, own_names in zip(optimizer.param_groups, names, strict=True):
        for parameter, name in zip(group["params"], own_names, strict=True):
            state = optimizer.state.get(parameter, {})
            for moment in MOMENTS & state.keys():
                if state[moment].shape != parameter.shape:
                    raise ValueError(
                        f"{moment} of {name} is {tuple(state[moment].shape)}, "
                        f"the parameter {tuple(parameter.shape)}"
                    )
                state[moment] = torch.empty_like(parameter).copy_(state[moment])
