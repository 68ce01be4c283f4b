"""The architecture: detector, criterion and postprocessors, built from options."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from .criterion import SetCriterion
    from .detr import DETR
    from .segmentation import DETRsegm

__all__ = ["NUM_CLASSES", "build_model"]

# One more than the largest category id of each kind of data (--dataset_file).
NUM_CLASSES = {"coco": 91, "coco_panoptic": 250}


def build_model(
    args: argparse.Namespace,
) -> "tuple[DETR | DETRsegm, SetCriterion, dict[str, nn.Module]]":
    """Build model, criterion and postprocessors; see `models.detr.build`."""
    from .detr import build  # not above: parsers of command lines do without PyTorch

    return build(args)
