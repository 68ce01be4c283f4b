"""Does a checkpoint belong to the model that the arguments describe?"""

import argparse
from typing import Any

from torch import nn

from util.ema import AVERAGE, has_average
from util.errors import UserError

# Options that decide what the weights mean. Shapes alone would not tell most of them apart.
MODEL_OPTIONS = (
    "enc_rpe2d",
    "backbone",
    "dilation",
    "position_embedding",
    "enc_layers",
    "dec_layers",
    "dim_feedforward",
    "hidden_dim",
    "nheads",
    "num_queries",
    "pre_norm",
    "masks",
    "num_classes",
)


def check_same_model(checkpoint: Any, args: argparse.Namespace, option: str = "resume") -> None:
    """Raise a UserError unless `checkpoint` was made with the model options of `args`.

    Options that the checkpoint does not mention (files older than the option, or without args)
    are left to `load_weights`.

    Args:
        option: which one named the checkpoint; that of "frozen_weights" has no mask head.
    """
    given = f"--{option} {getattr(args, option)}"
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise UserError(f"{given}: not a detector's checkpoint, it has no 'model'")
    saved = checkpoint.get("args", argparse.Namespace())
    if not isinstance(saved, argparse.Namespace):
        raise UserError(f"{given}: not a detector's checkpoint, its 'args' are none")
    saved = dict(vars(saved))
    if saved:
        saved.setdefault("enc_rpe2d", "")  # DETR's own checkpoints
    if option == "frozen_weights" and saved.pop("masks", False):
        raise UserError(f"{given}: it has a mask head already; go on with --resume")
    for name in MODEL_OPTIONS:
        if name in saved and saved[name] != getattr(args, name):
            raise UserError(
                f"{given}: made with --{name} {_shown(saved[name])}, "
                f"this command has --{name} {_shown(getattr(args, name))}"
            )
    if args.eval or not saved:
        return  # in evaluation frozen and trained batch norm compute the same
    from_scratch = saved.get("backbone_weights") == "none"
    if from_scratch != (args.backbone_weights == "none"):
        wanted = "none" if from_scratch else "imagenet"
        raise UserError(
            f"{given}: its backbone was trained with --backbone_weights {wanted}, "
            f"this command has --backbone_weights {args.backbone_weights}"
        )


def load_weights(model: nn.Module, checkpoint: dict, given: str, to_train_on: bool = False) -> None:
    """Load a checkpoint's weights; a UserError names the first tensor that does not fit.

    They are the averaged ones (--ema) where it has them, else those under "model".

    A tensor with numbers that are not finite does not fit either: nothing can be learned or
    detected with it.

    Args:
        given: the checkpoint, as the user named it.
        to_train_on: those under "model" in any case, which the optimizer's state belongs to.
    """
    weights = checkpoint[AVERAGE if has_average(checkpoint) and not to_train_on else "model"]
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        problem = (str(error).splitlines()[1:] or [str(error)])[0].strip()
        raise UserError(f"{given}: does not fit the model ({problem[:300]})") from error
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise UserError(
                f"{given}: {name} holds numbers that are not finite: training had "
                "diverged; take an earlier checkpoint"
            )


def _shown(value: Any) -> Any:
    return repr(value) if value in ("", None) else value
