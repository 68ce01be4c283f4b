"""Where the files of a split are: COCO's layout, Roboflow's, or named one by one."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from util.errors import UserError

# Below --coco_path. The folder may also be an archive of that name.
COCO = {
    "train": ("train2017", "annotations/instances_train2017.json"),
    "val": ("val2017", "annotations/instances_val2017.json"),
}
# Roboflow's export keeps the annotations among the images.
ROBOFLOW = {"train": ("train",), "val": ("valid", "val")}
ROBOFLOW_FILE = "_annotations.coco.json"


class Split(NamedTuple):
    """The files of a split.

    Attributes:
        images: folder of the images, or that folder's name before ".zip".
        ann_file: an instances_*.json file.
    """

    images: Path
    ann_file: Path


def add_data_options(parser: argparse.ArgumentParser, splits: Iterable[str] = COCO) -> None:
    """Add the options that `find_split` reads.

    Args:
        splits: which of "train" and "val" can be named.
    """
    parser.add_argument(
        "--coco_path",
        metavar="DIR",
        help="data in COCO's layout (annotations/ beside train2017 and val2017, as folders or .zip "
        f"archives) or Roboflow's (train/{ROBOFLOW_FILE}, valid/{ROBOFLOW_FILE})",
    )
    add_split_options(parser, splits)


def add_split_options(parser: argparse.ArgumentParser, splits: Iterable[str] = COCO) -> None:
    """Add the options of `add_data_options` but --coco_path."""
    for split in splits:
        name = {"train": "training", "val": "validation"}[split]
        parser.add_argument(
            f"--{split}_images", metavar="DIR", help=f"{name} images, in place of --coco_path's"
        )
        parser.add_argument(
            f"--{split}_ann", metavar="FILE", help="their annotations, in COCO's format"
        )


def take_data(args: argparse.Namespace, options: argparse.Namespace) -> None:
    """Replace the data of a checkpoint's args by those of a command line, if it names any."""
    names = ("coco_path", "val_images", "val_ann")
    if any(getattr(options, name) for name in names):
        for name in names:
            setattr(args, name, getattr(options, name))


def find_split(image_set: str, args: argparse.Namespace, annotated: bool = True) -> Split:
    """Return the files of the split "train" or "val" that `args` name.

    --train_images and --train_ann (or --val_...) take precedence over --coco_path.

    Args:
        annotated: whether the annotation file must exist.

    Raises:
        UserError: the options name no split, or one that does not exist.
    """
    options = f"--{image_set}_images", f"--{image_set}_ann"
    values = getattr(args, f"{image_set}_images", None), getattr(args, f"{image_set}_ann", None)
    both = " and ".join(options)
    if any(values):
        for option, value in zip(options, values, strict=True):
            if not value:
                raise UserError(f"{option} is missing, {both} go together")
            if not Path(value).exists():
                raise UserError(f"{option} {value}: no such file or folder")
        if getattr(args, "dataset_file", "coco") != "coco":
            raise UserError(f"{both} are for --dataset_file coco, not {args.dataset_file}")
        return Split(*map(Path, values))
    if not args.coco_path:
        raise UserError(
            f"--coco_path is missing: the folder with annotations/ and the images; or give {both}"
        )
    root = Path(args.coco_path)
    if not root.is_dir():
        raise UserError(f"--coco_path {root}: no such folder")
    split = Split(*(root / name for name in COCO[image_set]))
    if split.ann_file.exists():
        return split
    for name in ROBOFLOW[image_set]:
        exported = Split(root / name, root / name / ROBOFLOW_FILE)
        if exported.ann_file.exists():
            return exported
    if not annotated:
        return split
    raise UserError(
        f"{split.ann_file}: no such annotation file, nor is there {exported.ann_file}; "
        f"give {both} for files elsewhere"
    )
