"""Data sets, by the name that --dataset_file gives them."""

import argparse

from .coco import CocoDetection
from .coco import build as build_coco
from .coco_panoptic import build as build_coco_panoptic

__all__ = ["build_dataset"]


def build_dataset(image_set: str, args: argparse.Namespace) -> CocoDetection:
    """The split "train" or "val" of the data set that `args` names."""
    builders = {"coco": build_coco, "coco_panoptic": build_coco_panoptic}
    return builders[args.dataset_file](image_set, args)
