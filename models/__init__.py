"""The architecture: detector, criterion and postprocessors, built from options."""

import argparse

from torch import nn

from .criterion import SetCriterion
from .detr import DETR, NUM_CLASSES, build
from .segmentation import DETRsegm

__all__ = ["NUM_CLASSES", "build_model"]


def build_model(
    args: argparse.Namespace,
) -> tuple[DETR | DETRsegm, SetCriterion, dict[str, nn.Module]]:
    """Build model, criterion and postprocessors; see `models.detr.build`."""
    return build(args)
