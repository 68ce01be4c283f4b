"""The detector, its training criterion and its post-processing, built from arguments."""

import argparse

from torch import nn

from .backbone import build_backbone
from .criterion import SetCriterion
from .detr import DETR
from .matcher import HungarianMatcher
from .postprocess import PostProcess
from .transformer import build_transformer

__all__ = ["build_model"]


def build_model(args: argparse.Namespace) -> tuple[DETR, SetCriterion, dict[str, nn.Module]]:
    """Build what `args` (see `get_args_parser` in main.py) describes.

    Returns:
        model, criterion, and the postprocessors by the kind of prediction ("bbox").
    """
    model = DETR(
        build_backbone(args),
        build_transformer(args),
        num_classes=args.num_classes,
        num_queries=args.num_queries,
        aux_loss=args.aux_loss,
    )
    matcher = HungarianMatcher(args.set_cost_class, args.set_cost_bbox, args.set_cost_giou)
    weights = {
        "loss_ce": 1,
        "loss_bbox": args.bbox_loss_coef,
        "loss_giou": args.giou_loss_coef,
    }
    if args.aux_loss:
        of_aux = {f"{k}_{i}": v for i in range(args.dec_layers - 1) for k, v in weights.items()}
        weights.update(of_aux)
    criterion = SetCriterion(args.num_classes, matcher, weights, args.eos_coef)
    return model, criterion, {"bbox": PostProcess()}
