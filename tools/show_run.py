"""Draw a run's curves and some of its detections, and print its last COCO table.

Everything is read from the run's own folder: arguments and weights from checkpoint.pth, numbers
from log.txt. Writes curves.png and detections.png beside them.

examples:
  python tools/show_run.py output/shapes
  python tools/show_run.py output --images 30 --threshold 0.7 --force
  python tools/show_run.py output --coco_path coco_data
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from arguments import with_defaults
from checkpoints.compatibility import load_weights, saved_args
from datasets import build_dataset, scoring_annotations
from datasets.annotations.store import Annotations
from datasets.coco import CocoDetection
from datasets.coco_eval import STATS, format_stats, print_classes
from datasets.layouts import add_data_options, take_data
from datasets.orientation import read_as_annotated
from datasets.panoptic_eval import ROWS
from datasets.scoring.panoptic import format_quality
from models import build_model
from models.postprocess import postprocess
from tools.run_curves.picture import draw_curves
from tools.run_curves.runs import read_run
from training.log import LOG, read_log
from training.output_dir import CURVES, DETECTIONS, LAST
from util.checkpoint import load_checkpoint
from util.command_line import (
    OneLineParser,
    number,
    run_command,
    whole_number,
)
from util.errors import UserError
from util.memory import keep_freed_memory
from util.misc import collate_fn
from util.plot_utils import draw_detections, draw_maps
from util.whole_file import check_absent

SCORES = tuple(f"test_{name}" for name in (*STATS.values(), *ROWS))


def run_args(
    saved: argparse.Namespace, source: Path, options: argparse.Namespace
) -> argparse.Namespace:
    """The run's, with its data where `options` say."""
    args = with_defaults(saved, str(source))
    args.resume = str(source)  # the backbone's first weights are not needed
    take_data(args, options)
    args.coco_panoptic_path = options.coco_panoptic_path or args.coco_panoptic_path
    return args


@torch.no_grad()
def show_detections(
    checkpoint: dict,
    args: argparse.Namespace,
    dataset: CocoDetection,
    source: Path,
    out: Path,
    options: argparse.Namespace,
) -> None:
    """Draw what the checkpoint finds on the first images of its validation split."""
    model, _, postprocessors = build_model(args)
    load_weights(model, checkpoint, str(source))
    model.eval()
    shown = range(min(options.images, len(dataset)))
    samples, targets = collate_fn([dataset[i] for i in shown])
    orig_sizes = torch.stack([target["orig_size"] for target in targets])
    sizes = torch.stack([target["size"] for target in targets])
    images = [read_as_annotated(dataset.annotations, i, dataset.reader) for i in shown]
    names = dataset.annotations.class_names()
    outputs = model(samples)
    if "panoptic" in postprocessors:
        postprocessors["panoptic"].things = dataset.things()
        draw_maps(images, postprocessors["panoptic"](outputs, sizes, orig_sizes), names, out)
        return
    detections = postprocess(postprocessors, outputs, orig_sizes, sizes)
    draw_detections(images, detections, names, out, options.threshold)


def print_tables(log: list[dict], annotations: Annotations | None) -> None:
    """The scores of the last evaluation; `annotations` are what was scored against."""
    scored = [row for row in log if not row.keys().isdisjoint(SCORES)]
    if not scored:
        return
    row = scored[-1]
    print(f"Validation after epoch {row['epoch']}:")
    for iou_type, name in STATS.items():
        if f"test_{name}" in row:
            print(f"IoU metric: {iou_type}\n{format_stats(row[f'test_{name}'])}")
    print_classes(row, annotations)
    if "test_PQ_all" in row:
        print(format_quality({name: row[f"test_{key}"] for key, name in ROWS.items()}))


def get_args_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="show_run.py", description=__doc__)
    add = parser.add_argument
    add("run", type=Path, metavar="DIR", help="the run's --output_dir")
    add_data_options(parser, ["val"])  # if not where they were in training
    add("--coco_panoptic_path", help="panoptic data, the same")
    add("--images", type=whole_number(1), default=18, help="images to draw")
    add("--threshold", type=number(0, 1), default=0.5, help="least score to draw")
    add("--force", action="store_true", help="write over what is there")
    return parser


def main() -> None:
    options = get_args_parser().parse_args()
    source = options.run / LAST
    for name in (CURVES, DETECTIONS):
        check_absent(options.run / name, options.force)
    keep_freed_memory()
    checkpoint = load_checkpoint(str(source))
    saved = saved_args(checkpoint, str(source))
    if saved is None:
        raise UserError(f"{source}: not a checkpoint of main.py, it has no 'args'")
    log, _ = read_log(options.run / LOG)
    args = run_args(saved, source, options)
    dataset = build_dataset("val", args)
    # The one that may fail is first: nothing is written then.
    show_detections(checkpoint, args, dataset, source, options.run / DETECTIONS, options)
    draw_curves([read_run(options.run)], options.run / CURVES)

    print_tables(log, scoring_annotations(dataset, args))
    for name in (LAST, LOG, CURVES, DETECTIONS):
        print(f"{name.split('.')[0]:>12}: {options.run / name}")


if __name__ == "__main__":
    run_command(main)
