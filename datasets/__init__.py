"""Data sets, by the name that --dataset_file gives them."""

import argparse

from .annotations.store import Annotations
from .coco import CocoDetection
from .coco import build as build_coco
from .coco_panoptic import build as build_coco_panoptic
from .coco_panoptic import instances_for_scoring

__all__ = ["build_dataset", "scoring_annotations"]


def build_dataset(image_set: str, args: argparse.Namespace) -> CocoDetection:
    """The split "train" or "val" of the data set that `args` names."""
    builders = {"coco": build_coco, "coco_panoptic": build_coco_panoptic}
    return builders[args.dataset_file](image_set, args)


def scoring_annotations(dataset: CocoDetection, args: argparse.Namespace) -> Annotations | None:
    """What boxes and masks found on `dataset` are scored against; None if there is nothing.

    Raises:
        UserError: with panoptic data, the instances are of other images.
    """
    if args.dataset_file == "coco_panoptic":
        return instances_for_scoring(args, dataset.annotations)
    return dataset.annotations
