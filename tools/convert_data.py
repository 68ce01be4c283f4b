"""Write the annotations of data in YOLO's or Pascal VOC's layout in COCO's format.

OUT becomes a folder in COCO's layout, for main.py --coco_path and all tools. Its images are links
to the folders where they are: nothing is copied.

  YOLO   data.yaml, images/ and labels/; polygons become masks. Class 0 becomes category 1.
  VOC    JPEGImages/, Annotations/, ImageSets/Main/; classes get ids in the order of --classes, or
         of the alphabet. Difficult objects are neither learned nor scored (iscrowd).

examples:
  python tools/convert_data.py my_yolo data/mine
  python tools/convert_data.py VOCdevkit/VOC2012 data/voc
  python tools/convert_data.py my_voc data/mine --zero_based --classes car bus bicycle
"""

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.cli import OneLineParser, answer_first, run_command
from util.files import check_exists


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="convert_data.py", description=__doc__)
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="folder of the data, or YOLO's data.yaml")
    add("out", type=Path, metavar="OUT", help="folder to make")
    add("--classes", nargs="+", metavar="NAME", help="VOC: all classes, in the order of their ids")
    add(
        "--zero_based",
        action="store_true",
        help="VOC: xmin, ymin, xmax, ymax are counted from 0, as many tools write them, not from 1",
    )
    parser.file_checks.append(lambda args: check_exists(args.source))
    return parser  # fmt: skip


if __name__ == "__main__":
    answer_first(get_args_parser)

from datasets.layouts import COCO, SPLIT_NAMES, VOC, layout_to_convert
from tools.label_formats.content import LabelledData, LabelledImage, coco_content
from tools.label_formats.voc import read_voc
from tools.label_formats.yolo import read_yolo
from training.progress.bar import progress
from util.errors import UserError
from util.files import check_new_folder, new_folder


def read_source(args: argparse.Namespace) -> LabelledData:
    """Return what the label files say.

    Raises:
        UserError: they are missing or wrong, or options do not fit them.
    """
    if not args.source.exists():
        raise UserError(f"{args.source}: no such folder")
    layout = layout_to_convert(args.source)
    if layout is None:
        raise UserError(
            f"{args.source}: is neither in YOLO's layout (data.yaml, images/, labels/) nor in "
            "Pascal VOC's (JPEGImages/, Annotations/, ImageSets/Main/)"
        )
    if layout == VOC:
        return read_voc(args.source, progress, args.classes, args.zero_based)
    for option in ("classes", "zero_based"):
        if getattr(args, option):
            raise UserError(f"--{option} is for Pascal VOC's layout; {args.source} is in YOLO's")
    return read_yolo(args.source, progress)


def write_split(split: str, images: list[LabelledImage], data: LabelledData, out: Path) -> None:
    """Write the annotation file of a split, and the link to its images.

    Args:
        out: the folder, which may get another name in the same place.
    """
    link, ann_file = (out / name for name in COCO[split])
    folder = Path(os.path.commonpath([image.path.parent.absolute() for image in images]))
    images = [image._replace(path=image.path.absolute()) for image in images]
    ann_file.parent.mkdir(parents=True, exist_ok=True)
    ann_file.write_text(json.dumps(coco_content(images, folder, data.names)))
    # Relative, so that data and OUT can be moved or mounted elsewhere together.
    link.symlink_to(os.path.relpath(folder.resolve(), out.resolve()), target_is_directory=True)


def main() -> None:
    args = get_args_parser().parse_args()
    if args.classes and len(set(args.classes)) < len(args.classes):
        raise UserError("--classes: a class is named twice")
    check_new_folder(args.out)  # before anything takes long
    data = read_source(args)
    if not data.names:
        raise UserError(f"{args.source}: there is no object in it")
    with new_folder(args.out) as part:
        for split, images in data.splits.items():
            write_split(split, images, data, part)
    counts = [f"{len(images)} {SPLIT_NAMES[split]}" for split, images in data.splits.items()]
    print(f"{args.out}: {' and '.join(counts)} images")
    print(f"categories: {', '.join(f'{i} {n}' for i, n in enumerate(data.names.values(), 1))}")


if __name__ == "__main__":
    run_command(main)
