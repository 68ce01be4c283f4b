"""Data sets, by the name that --dataset_file gives them."""

import argparse

from .annotation_store import Annotations
from .coco import CocoDetection
from .coco import build as build_coco

__all__ = ["build_dataset"]


def build_dataset(image_set: str, args: argparse.Namespace) -> CocoDetection:
    """The split "train" or "val" of the data set that `args` names."""
    return {"coco": build_coco}[args.dataset_file](image_set, args)


def scoring_annotations(dataset: CocoDetection, args: argparse.Namespace) -> Annotations | None:
    """What boxes and masks found on `dataset` are scored against; None if there is nothing."""
    return dataset.annotations
