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
    "test": ("test2017", "annotations/instances_test2017.json"),
}
# Roboflow's export keeps the annotations among the images.
ROBOFLOW = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}
ROBOFLOW_FILE = "_annotations.coco.json"
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
# What tools/convert_data.py makes COCO's of.
YOLO, VOC = "YOLO", "Pascal VOC"
YAML_SUFFIXES = (".yaml", ".yml")
# Of the images in a folder; files that are named themselves may have any suffix.
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"}
# Options of tools that validate a checkpoint, on other data than those of its training if given.
VALIDATION_DATA = ("coco_path", "val_images", "val_ann")


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
        splits: which of "train", "val" and "test" can be named.
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
        parser.add_argument(
            f"--{split}_images",
            metavar="DIR",
            help=f"{SPLIT_NAMES[split]} images, in place of --coco_path's",
        )
        parser.add_argument(
            f"--{split}_ann", metavar="FILE", help="their annotations, in COCO's format"
        )


def take_data(args: argparse.Namespace, options: argparse.Namespace) -> None:
    """Replace the data of a checkpoint's args by those of a command line, if it names any."""
    if _names_data(options):
        for name in VALIDATION_DATA:
            setattr(args, name, getattr(options, name))


def check_data_given(options: argparse.Namespace) -> None:
    """Raise a UserError if a command line names data that are not there."""
    if _names_data(options):
        find_split("val", options, annotated=False)


def _names_data(options: argparse.Namespace) -> bool:
    return any(getattr(options, name) for name in VALIDATION_DATA)


def splits_read(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the splits that a run reads; the last one is evaluated."""
    return (args.eval_split,) if args.eval else ("train", "val")


def layout_to_convert(root: Path) -> str | None:
    """Return the name of a layout that tools/convert_data.py reads; None for any other."""
    if (
        root.suffix in YAML_SUFFIXES
        or any((root / f"data{suffix}").is_file() for suffix in YAML_SUFFIXES)
        or all((root / name).is_dir() for name in ("images", "labels"))
    ):
        return YOLO
    return VOC if (root / "JPEGImages").is_dir() else None


def find_split(image_set: str, args: argparse.Namespace, annotated: bool = True) -> Split:
    """Return the files of the split "train", "val" or "test" that `args` name.

    --train_images and --train_ann (or --val_..., --test_...) take precedence over --coco_path.

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
            if not (Path(value).exists() or Path(f"{value}.zip").exists()):
                raise UserError(f"{option} {value}: no such file or folder")
        if getattr(args, "dataset_file", "coco") != "coco":
            raise UserError(f"{both} are for --dataset_file coco, not {args.dataset_file}")
        return Split(Path(values[0].removesuffix(".zip")), Path(values[1]))
    if not args.coco_path:
        raise UserError(
            f"--coco_path is missing: the folder with annotations/ and the images; or give {both}"
        )
    root = Path(args.coco_path)
    if not root.is_dir() and root.suffix not in YAML_SUFFIXES:
        raise UserError(f"--coco_path {root}: no such folder")
    split = Split(*(root / name for name in COCO[image_set]))
    if split.ann_file.exists():
        return split
    for name in ROBOFLOW[image_set]:
        exported = Split(root / name, root / name / ROBOFLOW_FILE)
        if exported.ann_file.exists():
            return exported
    layout = layout_to_convert(root)
    if layout is not None:
        raise UserError(
            f"--coco_path {root} is in {layout}'s layout: python tools/convert_data.py {root} OUT "
            "writes its annotations in COCO's format, then give --coco_path OUT"
        )
    if not annotated:
        return split
    raise UserError(
        f"{split.ann_file}: no such annotation file, nor is there {exported.ann_file}; "
        f"give {both} for files elsewhere"
    )


def panoptic_root(args: argparse.Namespace) -> Path:
    """Return the folder --coco_panoptic_path.

    Raises:
        UserError: it is not given or does not exist.
    """
    if not args.coco_panoptic_path:
        raise UserError(
            "--coco_panoptic_path is missing, which --dataset_file coco_panoptic needs: the folder "
            "with annotations/panoptic_*.json and panoptic_train2017, panoptic_val2017"
        )
    root = Path(args.coco_panoptic_path)
    if not root.is_dir():
        raise UserError(f"--coco_panoptic_path {root}: no such folder")
    return root
