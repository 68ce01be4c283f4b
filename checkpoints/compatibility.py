"""Does a checkpoint belong to the model that the arguments describe?"""

import argparse
import re
from typing import Any

from torch import Tensor, nn

from arguments import checked_options
from training.checkpoint_content import check_model
from training.ema import weights_to_use
from util import VERSION
from util.errors import UserError
from util.schema import describe

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

SIZES = (
    "enc_layers", "dec_layers", "dim_feedforward", "hidden_dim", "num_queries", "num_classes",
)  # fmt: skip


def saved_args(checkpoint: Any, given: str) -> argparse.Namespace | None:
    """The args of a checkpoint; None where it says none, as DETR's own model files.

    Every command that reads a detector comes by here: what a checkpoint holds of a model is what
    it has to be afterwards.

    Args:
        given: the checkpoint, as the user named it.

    Raises:
        UserError: it is no detector's, or of a newer version of this project.
    """
    if isinstance(checkpoint, dict):
        _check_version(checkpoint.get("version"), given)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        has = _tensors_of(checkpoint)
        raise UserError(f"{given}: not a detector's checkpoint, it has no 'model'{has}")
    check_model(checkpoint, given)
    saved = checkpoint.get("args")
    if saved is None:
        return None
    if not isinstance(saved, argparse.Namespace):
        raise UserError(f"{given}: not a detector's checkpoint, its 'args' are {describe(saved)}")
    saved = checked_options(saved, given)
    check_size(saved, checkpoint["model"], given)
    return saved


def check_size(args: argparse.Namespace, weights: dict[str, Tensor], given: str) -> None:
    """Raise a UserError for options of a model that is larger than its weights, before it is built.

    Args:
        args: options of the model; those that are not there count nothing.
    """
    width, inner, layers, rows = (
        sum(getattr(args, name, None) or 0 for name in names)
        for names in (
            ["hidden_dim"],
            ["dim_feedforward"],
            ["enc_layers", "dec_layers"],
            ["num_queries", "num_classes"],
        )
    )
    least = width * (layers * (4 * width + 2 * inner) + rows)
    found = sum(value.numel() for value in weights.values())
    if least > found:
        sizes = ", ".join(
            f"--{name} {getattr(args, name)}" for name in SIZES if getattr(args, name, None)
        )
        raise UserError(
            f"{given}: its weights are {found:,} numbers, too few for a model of {sizes}"
        )


def _check_version(version: Any, given: str) -> None:
    """Raise a UserError for a newer version than this; another patch level is none.

    What does not look like a version is not of this project, and is left to other checks.
    """
    pattern = re.compile(r"(\d{1,9})\.(\d{1,9})(\.[\w.+-]{0,40})?", re.ASCII)
    found = pattern.fullmatch(version) if isinstance(version, str) else None
    if found and _release(found) > _release(pattern.fullmatch(VERSION)):
        raise UserError(
            f"{given}: made by version {version} of this project, this is {VERSION}: update it"
        )


def _release(version: re.Match) -> tuple[int, int]:
    return int(version[1]), int(version[2])


def _tensors_of(content: Any) -> str:
    """What a file that is no checkpoint has instead."""
    items = content.items() if isinstance(content, dict) else ()
    first = next((name for name, value in items if isinstance(value, Tensor)), None)
    return "" if first is None else f" but tensors such as {str(first)[:60]!r}"


def plain_name(name: str) -> str:
    """A tensor's name in the detector, which a model with masks has under "detr."."""
    return name.removeprefix("detr.")


def count_classes(checkpoint: dict) -> int | None:
    """num_classes of the weights; None if they have no head for classes."""
    weights = checkpoint["model"]
    head = weights.get("class_embed.bias", weights.get("detr.class_embed.bias"))
    return len(head) - 1 if isinstance(head, Tensor) and head.dim() == 1 else None


def adopt_classes(args: argparse.Namespace, checkpoint: dict, saved: dict[str, Any]) -> None:
    """Set args.num_classes to the checkpoint's, if it is not given, and args.category_ids."""
    if args.num_classes is None:
        args.num_classes = saved.get("num_classes") or count_classes(checkpoint)
    if args.num_classes == saved.get("num_classes"):
        args.category_ids = saved.get("category_ids")


def check_same_model(checkpoint: Any, args: argparse.Namespace, option: str = "resume") -> None:
    """Raise a UserError unless `checkpoint` was made with the model options of `args`.

    Options that the checkpoint does not mention (files older than the option, or without args)
    are left to `load_weights`. Classes that `args` leave open are those of the checkpoint.

    Args:
        option: which one named the checkpoint; that of "frozen_weights" has no mask head.
    """
    given = f"--{option} {getattr(args, option)}"
    saved = dict(vars(saved_args(checkpoint, given) or argparse.Namespace()))
    if saved:
        saved.setdefault("enc_rpe2d", "")  # DETR's own checkpoints
    adopt_classes(args, checkpoint, saved)
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
    weights = checkpoint["model"] if to_train_on else weights_to_use(checkpoint)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, ValueError) as error:
        problem = (str(error).splitlines()[1:] or [str(error)])[0].strip()
        raise UserError(f"{given}: does not fit the model ({problem[:300]})") from error
    check_finite(model, given)


def check_finite(model: nn.Module, given: str) -> None:
    """Raise a UserError if a tensor of the model, loaded from `given`, has NaN or infinity."""
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise UserError(
                f"{given}: {name} holds numbers that are not finite: training had "
                "diverged; take an earlier checkpoint"
            )


def _shown(value: Any) -> Any:
    return repr(value) if value in ("", None) else value
