"""Whether a checkpoint is of the model that options describe, and loading its weights."""

import argparse
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from argument_checks import checked_args
from models.rpe_attention.enc_rpe2d import same_encoding
from training.ema import weights_to_use
from training.start import saved_model
from util.errors import UserError

# Options that decide what the weights mean. Shapes alone would not tell most of them apart.
MODEL_OPTIONS = (
    "enc_rpe2d",
    "dec_rpe",
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

# COCO's own classes, by category id; checkpoints of the published code do not name them.
COCO_NAMES = {
    i: name
    for i, name in enumerate(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
    if name not in ("__background__", "N/A")
}


def saved_args(checkpoint: Any, source: str) -> argparse.Namespace | None:
    """Return the args of a detector's checkpoint; see `training.start.saved_model.saved_args`."""
    saved = saved_model.saved_args(checkpoint, source, "detector", checked_args)
    if saved is not None:
        check_size(saved, checkpoint["model"], source)
    return saved


def check_size(args: argparse.Namespace, weights: dict[str, Tensor], source: str) -> None:
    """Check that a model of `args` is not larger than its weights, before memory is spent on it.

    Args:
        args: options of the model; those that are missing count as 0.

    Raises:
        UserError: it is larger.
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
            f"{source}: its weights are {found:,} numbers, too few for a model of {sizes}"
        )


def plain_name(name: str) -> str:
    """Return a tensor's name in the detector, without the "detr." of a model with masks."""
    return name.removeprefix("detr.")


def count_classes(checkpoint: dict) -> int | None:
    """Return num_classes of the weights; None if they have no class head."""
    weights = checkpoint["model"]
    head = weights.get("class_embed.bias", weights.get("detr.class_embed.bias"))
    return len(head) - 1 if isinstance(head, Tensor) and head.dim() == 1 else None


def class_names(checkpoint: dict, num_classes: int) -> dict[int, str]:
    """Return names by label: COCO's if the checkpoint has none and as many classes as COCO."""
    names = checkpoint.get("classes")
    if isinstance(names, dict):
        return names
    return COCO_NAMES if num_classes in (91, 250) else {}


def check_same_model(
    checkpoint: Any, args: argparse.Namespace, option: str = "resume"
) -> dict[str, Any]:
    """Check that `checkpoint` was made with the model options of `args`.

    Options that the checkpoint does not mention (files older than the option, or without args)
    are left to `load_weights`.

    Args:
        option: the one that named the checkpoint; that of "frozen_weights" has no mask head.

    Returns:
        num_classes and category_ids: where `args` leave them open, those of the checkpoint.

    Raises:
        UserError: an option differs.
    """
    source = f"--{option} {getattr(args, option)}"
    saved = dict(vars(saved_args(checkpoint, source) or argparse.Namespace()))
    if saved.get("num_classes") is None:  # saved by a script that left it to `build_model`
        saved.pop("num_classes", None)
    if saved:
        for name in ("enc_rpe2d", "dec_rpe"):
            saved.setdefault(name, "")  # DETR's own checkpoints, and older ones
    classes = _classes(checkpoint, saved, args)
    if option == "frozen_weights" and saved.pop("masks", False):
        raise UserError(f"{source}: it has a mask head already; continue it with --resume")
    wanted = vars(args) | classes
    for name in MODEL_OPTIONS:
        if name not in saved or saved[name] == wanted[name]:
            continue
        if name != "enc_rpe2d" or not same_encoding(saved[name], wanted[name]):
            raise UserError(
                f"{source}: made with --{name} {_shown(saved[name])}, "
                f"this command has --{name} {_shown(wanted[name])}"
            )
    if args.eval or not saved:
        return classes  # in evaluation frozen and trained batch norm compute the same
    from_scratch = saved.get("backbone_weights") == "none"
    if from_scratch != (args.backbone_weights == "none"):
        before = "none" if from_scratch else "imagenet"
        raise UserError(
            f"{source}: its backbone was trained with --backbone_weights {before}, "
            f"this command has --backbone_weights {args.backbone_weights}"
        )
    return classes


def _classes(checkpoint: dict, saved: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    num_classes, category_ids = args.num_classes, args.category_ids
    if num_classes is None:
        num_classes = saved.get("num_classes") or count_classes(checkpoint)
    if num_classes == saved.get("num_classes"):
        category_ids = saved.get("category_ids")
    return {"num_classes": num_classes, "category_ids": category_ids}


def load_weights(
    model: nn.Module, checkpoint: dict, source: str, to_train_on: bool = False
) -> None:
    """Load a checkpoint's weights: the averaged ones (--ema) if there are any, else "model".

    Args:
        source: the checkpoint, as the user named it.
        to_train_on: load "model" in any case, which the optimizer's state belongs to.

    Raises:
        UserError: a tensor does not fit, or has numbers that are not finite, with which nothing
            can be learned or detected; the first such tensor is named.
    """
    weights = checkpoint["model"] if to_train_on else weights_to_use(checkpoint)
    saved_model.load_exactly(model, weights, source)


def _shown(value: Any) -> Any:
    return repr(value) if value in ("", None) else value
