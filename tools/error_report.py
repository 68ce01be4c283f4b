"""Write an HTML page of what a detector gets wrong on its validation images.

Scores the checkpoint as main.py --eval does, then says of each detection what kind of error it is,
which classes are taken for each other, how far scores can be trusted, and shows the worst images.
The page is one file that needs no network. The data are those of the training unless options name
others.

examples:
  python tools/error_report.py output/checkpoint.pth
  python tools/error_report.py output/checkpoint.pth --coco_path coco_data --output report.html
  python tools/error_report.py output/checkpoint.pth --threshold 0.7 --images 60 --force
"""

import argparse
import datetime
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from arguments import add_detector_options
from datasets.layouts import add_data_options, check_data_given
from training.start.options import add_checkpoint_argument
from util.cli import OneLineParser, answer_first, number, run_command, whole_number, with_options


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="error_report.py", description=__doc__)
    add = parser.add_argument
    add_checkpoint_argument(parser)
    add("--output", type=Path, default=Path("error_report.html"), metavar="FILE", help="the page")
    add(
        "--threshold",
        type=number(0, 1),
        default=0.5,
        help="lowest score of a detection that counts",
    )
    add("--iou", type=number(0), default=0.5, help="lowest IoU of a detection that is right")
    add("--images", type=whole_number(0), default=24, help="how many of the worst images to show")
    add(
        "--batch_size",
        type=whole_number(1),
        help="images at a time; by default as in training",
    )
    add("--num_workers", type=whole_number(0), help="loader processes; by default as in training")
    add("--force", action="store_true", help="overwrite an existing page")
    add_data_options(parser, ["val"])
    add_detector_options(parser)
    parser.file_checks.append(check_data_given)
    return parser


if __name__ == "__main__":
    answer_first(get_args_parser)

from torch.utils.data import DataLoader

from checkpoints.compatibility import MODEL_OPTIONS
from datasets.annotations.store import Annotations
from datasets.coco_eval import STATS, CocoEvaluator
from datasets.layouts import take_data
from datasets.loaders import build_loaders
from detector import Detector, load_detector
from tools.error_analysis.error_types import NEAR
from tools.error_analysis.page import error_page
from tools.error_analysis.score_curves import ScoreCurve
from tools.error_analysis.summary import ErrorSummary
from tools.image_files.low_scores import nothing_found
from training.progress.bar import progress
from util.errors import UserError
from util.files import atomic_write, check_output_file
from util.machine import keep_freed_memory

LOADER_OPTIONS = ("batch_size", "num_workers", "device")


def validation_loader(detector: Detector, options: argparse.Namespace) -> DataLoader:
    """Return a loader of the training's validation split, or of the data that options name."""
    args = detector.args
    if args.dataset_file == "coco_panoptic":
        raise UserError(
            f"{options.checkpoint}: trained on panoptic data, whose segments have no such report; "
            "main.py --eval scores them, tools/show_run.py draws them"
        )
    overrides = {name: getattr(options, name) for name in LOADER_OPTIONS}
    if options.num_workers is None:  # the training may have been on a larger machine
        overrides["num_workers"] = min(args.num_workers, os.cpu_count() or 1)
    overrides = {name: value for name, value in overrides.items() if value is not None}
    args = with_options(args, eval=True, rank=0, world_size=1, **overrides)
    take_data(args, options)
    return build_loaders(args)[1]


def evaluate(detector: Detector, loader: DataLoader) -> CocoEvaluator:
    """Return the evaluator of all detections on the loader's images, with their scores."""
    iou_types = tuple(name for name in STATS if name in detector.postprocessors)
    evaluator = CocoEvaluator(loader.dataset.annotations, iou_types, detector.args.coco_eval)
    for samples, targets in progress(loader, "Evaluation"):
        results = detector.detect_batch(samples, targets)
        ids = [target["image_id"].item() for target in targets]
        evaluator.update(dict(zip(ids, results, strict=True)))
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


def page_facts(
    detector: Detector, annotations: Annotations, options: argparse.Namespace
) -> dict[str, str]:
    """Return where the page's numbers come from."""
    model = {name: getattr(detector.args, name) for name in MODEL_OPTIONS}
    return {
        "checkpoint": str(options.checkpoint),
        "data": str(annotations.path),
        "images": f"{len(annotations):,}",
        "objects": f"{(~annotations.crowds).sum():,}",
        "shown": f"detections with a score of at least {options.threshold:g} (--threshold); right "
        f"from an IoU of {options.iou:g} (--iou)",
        "model": ", ".join(f"{name} {value}" for name, value in model.items() if value),
        "made": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
    }


def best_f1(curve: ScoreCurve, iou: float) -> str:
    """Return a line that says at which threshold F1 over all classes is highest."""
    best = curve.best
    return (
        f"best F1 at an IoU of {iou:g}: {curve.f1[best]:.3f} with --threshold "
        f"{curve.best_threshold()} (precision {curve.precision[best]:.3f}, recall "
        f"{curve.recall[best]:.3f})"
    )


def check_options(options: argparse.Namespace) -> None:
    if not NEAR < options.iou <= 1:
        raise UserError(f"--iou must be above {NEAR} and at most 1, is {options.iou:g}")
    check_output_file(options.output, options.force, "--output")


def main() -> None:
    options = get_args_parser().parse_args()
    check_options(options)  # before anything takes long
    keep_freed_memory()
    detector = load_detector(options.checkpoint, options.device, options.trust_checkpoint)
    loader = validation_loader(detector, options)
    evaluator = evaluate(detector, loader)
    annotations, (detections,) = evaluator.annotations, evaluator.results
    summary = ErrorSummary(annotations, detections, detector.names, options.threshold, options.iou)
    worst = summary.worst(options.images)
    page = error_page(
        f"Errors of {options.checkpoint}",
        page_facts(detector, annotations, options),
        summary,
        evaluator,
        loader.dataset.reader,
        progress(worst, "images"),
    )
    with atomic_write(options.output) as file:
        file.write(page.encode())
    if summary.nothing_found:
        print(nothing_found(options.threshold, *summary.best_detection()))
    curve = summary.curve()
    if curve is not None:
        print(best_f1(curve, options.iou))
    print(f"{options.output}: {len(worst)} worst of {len(annotations)} image(s)")


if __name__ == "__main__":
    run_command(main)
