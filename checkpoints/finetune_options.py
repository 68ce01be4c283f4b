"""The options that --finetune decides where the command line does not."""

import argparse
from typing import Any

from arguments import get_args_parser
from datasets.augmentation import own_parts
from util.errors import UserError

from .compatibility import MODEL_OPTIONS

# Weights would fit, and mean nothing, if these differed.
NEVER_CHANGED = ("backbone", "hidden_dim", "nheads", "pre_norm")
# Decided by the new run's data and task.
OWN_OPTIONS = ("num_classes", "masks")
# What the weights were found with: rates that suit a backbone and a batch, losses that suit them.
RECIPE = (
    "lr", "lr_backbone", "batch_size", "accumulate", "weight_decay", "clip_max_norm", "dropout",
    "augment", "set_cost_class", "set_cost_bbox", "set_cost_giou", "bbox_loss_coef",
    "giou_loss_coef", "eos_coef", "aux_loss", "mask_loss_coef", "dice_loss_coef",
)  # fmt: skip
# How long a new head needs to learn, not how long the model took from nothing.
EPOCHS = 20
# Adam's first steps are as large as its rate, whatever the gradient: they would undo what the
# weights know before its averages mean something.
WARMUP = 100
EMA = 0.998


def model_options(args: argparse.Namespace, saved: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a checkpoint's model that the command line leaves open.

    Args:
        saved: all of the checkpoint's options.

    Raises:
        UserError: an option on the command line differs and must not.
    """
    on_command_line, there = _options_given(args), vars(saved)
    for name in NEVER_CHANGED:
        if name in on_command_line and there[name] != getattr(args, name):
            raise UserError(
                f"--finetune {args.finetune}: made with --{name} {there[name]}, this command has "
                f"--{name} {getattr(args, name)}: its weights would mean nothing; leave it out"
            )
    names = [name for name in (*MODEL_OPTIONS, "image_size") if name not in OWN_OPTIONS]
    if there["backbone_weights"] == "none":
        names.append("backbone_weights")  # its batch norm is trained, too
    return {name: there[name] for name in names if name not in on_command_line}


def training_options(
    args: argparse.Namespace, saved: argparse.Namespace, resumed: bool
) -> dict[str, Any]:
    """Return the options of training that the command line leaves open.

    Args:
        saved: all of the checkpoint's options.
        resumed: whether it is of the fine-tuned run itself, which goes on as it was begun.

    Raises:
        UserError: the command line leaves open whether to run code that the checkpoint names.
    """
    on_command_line, there = _options_given(args), vars(saved)
    chosen = {name: there[name] for name in RECIPE}
    if "augment" not in on_command_line and own_parts(there["augment"]):
        raise UserError(
            f"--finetune {args.finetune}: trained with --augment {there['augment']}, whose code is "
            "run only where a command line names it: give --augment, this one or another"
        )
    if resumed:
        names = ("epochs", "lr_schedule", "lr_drop", "warmup", "ema")
        chosen |= {name: there[name] for name in names}
    else:
        epochs = args.epochs if "epochs" in on_command_line else EPOCHS
        chosen |= {"epochs": epochs, "warmup": WARMUP, "ema": there["ema"] or EMA}
        if args.lr_schedule == "step":
            chosen["lr_drop"] = max(epochs * 3 // 4, 1)
    return {name: value for name, value in chosen.items() if name not in on_command_line}


def _options_given(args: argparse.Namespace) -> list[str]:
    """Return the options on the command line; without one, those that are not at their defaults."""
    if args.given is not None:
        return args.given
    defaults = get_args_parser().parse_args([])
    return [name for name, value in vars(args).items() if value != getattr(defaults, name, None)]
