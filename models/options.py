"""Do the options of a model fit each other?"""

import argparse
from pathlib import Path

import torch

from util.errors import UserError

from .backbone import BASIC_BLOCK_BACKBONES
from .rpe_attention.backends.fused import why_not_device, why_not_encodings
from .rpe_attention.irpe import build_rpe
from .rpe_attention.rpe_string import parse_rpe_string
from .small_resnet import SMALL_RESNETS

# One more than the largest category id.
NUM_CLASSES = {"coco": 91, "coco_panoptic": 250}


def set_num_classes(args: argparse.Namespace) -> None:
    """Give args.num_classes the value for its kind of data, if it has none."""
    if args.num_classes is None:
        args.num_classes = NUM_CLASSES[args.dataset_file]


def check_model_options(args: argparse.Namespace, weights_are_given: bool) -> None:
    """Raise a UserError for options of which no model can be built.

    Args:
        weights_are_given: a checkpoint has them all, so that the backbone needs no first ones.
    """
    if args.hidden_dim % args.nheads or args.hidden_dim % 4:
        raise UserError(
            f"--hidden_dim {args.hidden_dim} must be a multiple of 4 and of --nheads {args.nheads}"
        )
    if args.dropout >= 1:
        raise UserError(f"--dropout {args.dropout} must be below 1")
    if args.dilation and args.backbone in BASIC_BLOCK_BACKBONES:
        raise UserError(f"--dilation needs bottleneck blocks, {args.backbone} has none")
    if not weights_are_given:
        _check_backbone_weights(args.backbone, args.backbone_weights)
    if args.frozen_weights and not args.masks:
        raise UserError("--frozen_weights trains a mask head alone: it needs --masks")
    trained = not (args.eval or args.frozen_weights)
    if args.backbone_weights == "none" and args.lr_backbone == 0 and trained:
        raise UserError("--backbone_weights none needs an --lr_backbone above 0 to learn")


def _check_backbone_weights(backbone: str, source: str) -> None:
    if source == "imagenet" and backbone in SMALL_RESNETS:
        raise UserError(
            f"--backbone {backbone} has no ImageNet weights; add --backbone_weights none|PATH"
        )
    if source not in ("imagenet", "none") and not Path(source).is_file():
        raise UserError(f"--backbone_weights {source}: no such file")


def check_attention(args: argparse.Namespace, device: torch.device) -> None:
    """Raise a UserError where --attention fused can not be had."""
    if args.attention != "fused":
        return
    head_dim = args.hidden_dim // args.nheads
    encodings = build_rpe(parse_rpe_string(args.enc_rpe2d), head_dim, args.nheads)
    reason = why_not_device(device) or why_not_encodings(*encodings, head_dim)
    if reason is not None:
        raise UserError(f"--attention fused: {reason}")
