"""Draw a run's curves and some of its detections, and print the scores of its last evaluation.

Everything is read from the run's own folder: options and weights from checkpoint.pth, numbers from
log.txt. Writes curves.png and detections.png to the same folder.

examples:
  python tools/show_run.py output/shapes
  python tools/show_run.py output --images 30 --threshold 0.7 --force
  python tools/show_run.py output --coco_path coco_data
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.layouts import add_data_options, check_data_given
from training.start.options import add_checkpoint_argument
from util.cli import OneLineParser, answer_first, number, run_command, whole_number, with_options


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="show_run.py", description=__doc__)
    add = parser.add_argument
    add_checkpoint_argument(parser)
    add_data_options(parser, ["val"])
    add("--coco_panoptic_path", help="folder of panoptic data, if it has moved since the training")
    add("--images", type=whole_number(1), default=18, help="images to draw")
    add("--threshold", type=number(0, 1), default=0.5, help="lowest score of detections to draw")
    add("--force", action="store_true", help="overwrite existing pictures")

    def check(args: argparse.Namespace) -> None:
        if "://" in args.checkpoint:
            parser.error(f"{args.checkpoint}: the log beside a checkpoint is needed, give its file")

    parser.checks.append(check)
    parser.file_checks.append(check_data_given)
    return parser


if __name__ == "__main__":
    answer_first(get_args_parser)

import torch

from checkpoints.compatibility import saved_args
from datasets import build_dataset, scoring_annotations
from datasets.annotations.store import Annotations
from datasets.coco import CocoDetection
from datasets.coco_eval import STATS
from datasets.layouts import take_data
from datasets.orientation import read_as_annotated
from datasets.panoptic_eval import ROWS
from datasets.score_tables import print_tables
from detection_task import DETECTION
from detector import Detector, build_detector
from tools.image_files.low_scores import LowScores, split_by_score
from tools.run_curves.picture import draw_curves
from tools.run_curves.runs import read_run
from training.log import LOG, read_log
from training.output_dir import CURVES, DETECTIONS
from training.progress.run import epoch_of
from util.checkpoint import load_checkpoint
from util.errors import UserError
from util.files import check_no_overwrite
from util.machine import keep_freed_memory
from util.misc import collate_fn
from util.pictures.drawing import drawn_on, segments_on
from util.pictures.grid import CELL, write_grid

SCORES = tuple(f"test_{name}" for name in (*STATS.values(), *ROWS))


def show_detections(
    detector: Detector, dataset: CocoDetection, count: int, threshold: float, path: Path
) -> None:
    """Draw the detections, or panoptic segments, on the first images of a data set.

    If no score reaches the threshold, the best three of each image are drawn, and that is printed.
    """
    if len(dataset) == 0:
        raise UserError(f"{dataset.annotations.path}: lists no images to draw")
    shown = range(min(count, len(dataset)))
    images = [read_as_annotated(dataset.annotations, i, dataset.reader) for i in shown]
    names = dataset.annotations.class_names()
    panoptic = detector.postprocessors.get("panoptic")
    if panoptic is not None:
        panoptic.things = dataset.things()
    results = detector.detect_batch(*collate_fn([dataset[i] for i in shown]))
    if panoptic is not None:
        pairs = zip(images, results, strict=True)
        write_grid([segments_on(image, found, names, CELL) for image, found in pairs], path)
        return
    low, split = LowScores(threshold), []
    for i, result in zip(shown, results, strict=True):
        found = detector.filter_detections(result, threshold=0)
        found["names"] = [names.get(label, str(label)) for label in found["labels"].tolist()]
        kept, best = split_by_score(found, threshold)
        split.append((kept, best))
        if not kept["names"]:
            low.add(dataset.annotations.file_name(i), best)
    drawn = [best if low.count == len(shown) else kept for kept, best in split]
    pairs = zip(images, drawn, strict=True)
    write_grid([drawn_on(image, found, threshold, CELL) for image, found in pairs], path)
    if explanation := low.explanation(len(shown)):
        print(explanation)


def print_last_scores(log: list[dict], epochs: int, annotations: Annotations | None) -> None:
    """Print the scores of the last evaluation; `annotations` are what it was scored against."""
    scored = [row for row in log if not row.keys().isdisjoint(SCORES)]
    if scored:
        print(f"Validation after {epoch_of(scored[-1]['epoch'], epochs)}:")
        print_tables(scored[-1], annotations)


def main() -> None:
    options = get_args_parser().parse_args()
    source, run = options.checkpoint, Path(options.checkpoint).parent
    for name in (CURVES, DETECTIONS):
        check_no_overwrite(run / name, options.force)
    keep_freed_memory()
    checkpoint = load_checkpoint(source)
    if saved_args(checkpoint, source) is None:
        raise UserError(f"{source}: not a checkpoint of main.py, it has no 'args'")
    log, _ = read_log(run / LOG, DETECTION.log)
    detector = build_detector(checkpoint, source, torch.device("cpu"))
    panoptic_path = options.coco_panoptic_path or detector.args.coco_panoptic_path
    args = with_options(detector.args, coco_panoptic_path=panoptic_path)
    take_data(args, options)
    dataset = build_dataset("val", args)
    # Detections come first because they may fail: then nothing is written.
    path = run / DETECTIONS
    show_detections(detector, dataset, options.images, options.threshold, path)
    draw_curves([read_run(run)], run / CURVES)

    print_last_scores(log, args.epochs, scoring_annotations(dataset, args))
    for path in (Path(source), run / LOG, run / CURVES, run / DETECTIONS):
        print(f"{path.stem:>12}: {path}")


if __name__ == "__main__":
    run_command(main)
