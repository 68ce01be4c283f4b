"""Checks of main.py's options, on the command line and in checkpoints."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from arguments import NOT_OPTIONS, get_args_parser
from datasets.layouts import find_split, panoptic_root, splits_read
from models.option_values import BASIC_BLOCK_BACKBONES, SMALL_BACKBONES
from training.start.options import check_checkpoint, checked_options, finds_checkpoint
from util.errors import UserError

if TYPE_CHECKING:
    import torch  # functions import it: missing files are noticed without


def check_files(args: argparse.Namespace) -> None:
    """Raise a UserError if data or checkpoints to read are missing; imports no PyTorch."""
    for image_set in splits_read(args):
        find_split(image_set, args, annotated=False)
    if args.dataset_file == "coco_panoptic":
        panoptic_root(args)
    goes_on = finds_checkpoint(args)
    weights_are_given = goes_on or bool(checkpoints_given(args, goes_on))
    weights = args.backbone_weights
    if not (weights_are_given or weights in ("imagenet", "none") or Path(weights).is_file()):
        raise UserError(f"--backbone_weights {weights}: no such file")


def checkpoints_given(args: argparse.Namespace, goes_on: bool) -> dict[str, str]:
    """Return the checkpoints to read, by option, without the one that --resume auto finds.

    Args:
        goes_on: it finds one. The same command may be given again long after the files that its
            run began with were removed.

    Raises:
        UserError: one of them does not exist, or they exclude each other.
    """
    given = {
        "resume": args.resume, "frozen_weights": args.frozen_weights, "finetune": args.finetune,
    }  # fmt: skip
    if args.frozen_weights and args.finetune:
        raise UserError("--frozen_weights and --finetune exclude each other")
    if args.finetune and args.eval:
        raise UserError("--finetune starts a training; --eval takes its checkpoint by --resume")
    if args.resume == "auto":
        del given["resume"]
    elif args.resume:
        given = {"resume": args.resume}  # --resume overrides the others
    if goes_on:
        return {}
    given = {option: path for option, path in given.items() if path}
    for option, path in given.items():
        check_checkpoint(option, path)
    return given


def checked_args(saved: argparse.Namespace, source: str) -> argparse.Namespace:
    """Check a checkpoint's args; see `training.start.options.checked_options`."""
    return checked_options(saved, source, get_args_parser(), NOT_OPTIONS)


def with_defaults(saved: argparse.Namespace, source: str) -> argparse.Namespace:
    """Check a checkpoint's args, and add the defaults of options that it does not have.

    Raises:
        UserError: the command line would refuse a value, or options do not fit each other.
    """
    args = get_args_parser().parse_args([], namespace=checked_args(saved, source))
    try:
        check_model_options(args, weights_are_given=True)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    return args


def check_model_options(args: argparse.Namespace, weights_are_given: bool) -> None:
    """Raise a UserError for options of the model that do not fit each other.

    Args:
        weights_are_given: a checkpoint holds all weights, so --backbone_weights is not read.
    """
    from models.rpe_attention.enc_rpe2d import parse_encoding
    from models.rpe_attention.rotary import RotaryConfig

    if args.hidden_dim % args.nheads or args.hidden_dim % 4:
        raise UserError(
            f"--hidden_dim {args.hidden_dim} must be a multiple of 4 and of --nheads {args.nheads}"
        )
    features = args.hidden_dim // args.nheads
    if features % 4 and isinstance(parse_encoding(args.enc_rpe2d), RotaryConfig):
        raise UserError(
            f"--enc_rpe2d {args.enc_rpe2d} needs heads of a multiple of 4 features; --hidden_dim "
            f"{args.hidden_dim} / --nheads {args.nheads} is {features}"
        )
    if args.dropout >= 1:
        raise UserError(f"--dropout {args.dropout} must be below 1")
    backbone, weights = args.backbone, args.backbone_weights
    if args.dilation and backbone in BASIC_BLOCK_BACKBONES:
        raise UserError(f"--dilation needs bottleneck blocks, {backbone} has none")
    if not weights_are_given and weights == "imagenet" and backbone in SMALL_BACKBONES:
        raise UserError(
            f"--backbone {backbone} has no ImageNet weights; add --backbone_weights none|PATH"
        )
    if args.frozen_weights and not args.masks:
        raise UserError("--frozen_weights trains a mask head alone: it needs --masks")
    trained = not (args.eval or args.frozen_weights)
    if weights == "none" and args.lr_backbone == 0 and trained:
        if weights_are_given:
            raise UserError(
                "--lr_backbone 0: a backbone that was trained from scratch cannot be frozen, its "
                "batch norm goes on to learn; --lr_backbone 1e-6 changes it little"
            )
        raise UserError("--backbone_weights none needs an --lr_backbone above 0 to learn")


def check_attention(args: argparse.Namespace, device: "torch.device") -> None:
    """Raise a UserError if --attention fused is given and not supported, or fails in its trial."""
    from models.rpe_attention.enc_rpe2d import parse_encoding
    from rpe_ops.irpe import RPEConfig
    from training.start.attention import check_fused

    if args.attention == "fused":
        encoding = parse_encoding(args.enc_rpe2d)
        if encoding is not None and not isinstance(encoding, RPEConfig):
            raise UserError(
                f"--attention fused: its kernels look up the tables of rpe-..., and --enc_rpe2d "
                f"{args.enc_rpe2d} has none; leave --attention out"
            )
        head_dim, dropout = args.hidden_dim // args.nheads, args.dropout > 0 and not args.eval
        check_fused(encoding, head_dim, device, args.amp, dropout)
