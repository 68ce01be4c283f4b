"""Data sets, by the name that --dataset_file gives them."""

import argparse
from typing import TYPE_CHECKING

# Functions import what they need: parsers of command lines do without PyTorch.
if TYPE_CHECKING:
    from pycocotools.coco import COCO
    from torch.utils.data import Dataset

    from .annotations.store import Annotations
    from .coco import CocoDetection

__all__ = ["build_dataset", "get_coco_api_from_dataset", "scoring_annotations"]


def build_dataset(image_set: str, args: argparse.Namespace) -> "CocoDetection":
    """Build the split "train", "val" or "test" of the data set that `args` name.

    Raises:
        UserError: data are missing or faulty.
    """
    from . import coco, coco_panoptic

    builders = {"coco": coco.build, "coco_panoptic": coco_panoptic.build}
    return builders[args.dataset_file](image_set, args)


def scoring_annotations(dataset: "CocoDetection", args: argparse.Namespace) -> "Annotations | None":
    """Return what boxes and masks found on `dataset` are scored against; None if there is nothing.

    Raises:
        UserError: with panoptic data, the instances are of other images.
    """
    if args.dataset_file == "coco_panoptic":
        from .coco_panoptic import instances_for_scoring

        return instances_for_scoring(args, dataset.annotations)
    return dataset.annotations


def get_coco_api_from_dataset(dataset: "Dataset") -> "COCO | None":
    """Return the annotations of a `CocoDetection` as pycocotools' COCO; None for other data sets.

    DETR's scripts give it to `CocoEvaluator`, which also takes `dataset.annotations`.
    """
    from pycocotools.coco import COCO
    from torch.utils.data import Subset

    from .annotations.store import Annotations

    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    annotations = getattr(dataset, "annotations", None)
    if not isinstance(annotations, Annotations):
        return None
    coco = COCO()
    coco.dataset = annotations.for_scoring("segm" if dataset.return_masks else "bbox")
    for index, image in enumerate(coco.dataset["images"]):
        image["file_name"] = annotations.file_name(index)
    coco.createIndex()
    return coco
