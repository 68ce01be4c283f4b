"""The detector, its training criterion and its post-processing, built from arguments."""

import argparse

from torch import nn

from .backbone import build_backbone
from .criterion import SetCriterion
from .detr import DETR
from .matcher import HungarianMatcher
from .options import set_num_classes
from .panoptic import PostProcessPanoptic
from .postprocess import PostProcess, PostProcessSegm
from .segmentation import DETRsegm
from .transformer import build_transformer

__all__ = ["build_model"]


def build_model(
    args: argparse.Namespace,
) -> tuple[DETR | DETRsegm, SetCriterion, dict[str, nn.Module]]:
    """Build what `args` (see `get_args_parser`) describes.

    Returns:
        model, criterion, and the postprocessors by the kind of prediction: "bbox", with masks
        "segm", and for panoptic data "panoptic".
    """
    set_num_classes(args)
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
    postprocessors = {"bbox": PostProcess()}
    if args.masks:
        frozen = bool(args.frozen_weights)
        model = DETRsegm(model, frozen, args.gradient_checkpointing)
        weights |= {"loss_mask": args.mask_loss_coef, "loss_dice": args.dice_loss_coef}
        postprocessors["segm"] = PostProcessSegm()
        if args.dataset_file == "coco_panoptic":
            postprocessors["panoptic"] = PostProcessPanoptic()
    if args.aux_loss:
        of_aux = {f"{k}_{i}": v for i in range(args.dec_layers - 1) for k, v in weights.items()}
        weights.update(of_aux)
    criterion = SetCriterion(args.num_classes, matcher, weights, args.eos_coef)
    return model, criterion, postprocessors
