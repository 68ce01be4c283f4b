"""Show what a detector gets wrong on its validation images, as one HTML page.

Scores the checkpoint as main.py --eval does, then says of each detection what kind of error it is,
which classes are taken for each other, how far scores can be trusted, and shows the worst images.
The page is one file that needs no network; data/... options default to those of the training.

examples:
  python tools/error_report.py output/checkpoint.pth
  python tools/error_report.py output/checkpoint.pth --coco_path coco_data --output report.html
  python tools/error_report.py output/checkpoint.pth --threshold 0.7 --images 60 --force
"""

import argparse
import datetime
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from error_page import card, page_tables, tiles
from torch.utils.data import DataLoader

from datasets.coco_eval import CocoEvaluator, format_stats
from datasets.error_kinds import NEAR
from datasets.error_summary import ErrorSummary
from datasets.loaders import build_loaders
from models import load_detector
from models.arguments import add_detector_options
from models.compatibility import MODEL_OPTIONS
from models.detector import Detector
from models.postprocess import postprocess
from util.command_line import OneLineParser, number, run_command, whole_number
from util.errors import UserError
from util.memory import keep_freed_memory
from util.metrics import progress
from util.report_page import filled_page
from util.whole_file import check_absent, replacing

PAGE = Path(__file__).resolve().parent / "report_page"
DATA_OPTIONS = ("coco_path", "val_images", "val_ann", "batch_size", "num_workers", "device")
TABLES = {"bbox": "boxes", "segm": "masks"}


def validation_loader(detector: Detector, options: argparse.Namespace) -> DataLoader:
    """The validation split that the checkpoint was trained with, unless options say another."""
    args = detector.args
    if args.dataset_file == "coco_panoptic":
        raise UserError(
            f"{options.checkpoint}: of panoptic data, whose segments have no such report; "
            "main.py --eval scores them, tools/show_run.py draws them"
        )
    for name in DATA_OPTIONS:
        if getattr(options, name) is not None:
            setattr(args, name, getattr(options, name))
    if not (args.coco_path or getattr(args, "val_ann", None)):
        raise UserError("the checkpoint names no data: give --coco_path")
    args.eval, args.rank, args.world_size = True, 0, 1  # whatever the training was
    return build_loaders(args)[1]


@torch.no_grad()
def evaluated(detector: Detector, loader: DataLoader) -> CocoEvaluator:
    """All detections on the loader's images, scored."""
    kinds = tuple(name for name in TABLES if name in detector.postprocessors)
    evaluator = CocoEvaluator(loader.dataset.annotations, kinds, detector.args.coco_eval)
    for samples, targets in progress(loader, "Evaluation"):
        outputs = detector.model(samples.to(detector.device))
        orig_sizes, sizes = (
            torch.stack([target[name] for target in targets]).to(detector.device)
            for name in ("orig_size", "size")
        )
        results = postprocess(detector.postprocessors, outputs, orig_sizes, sizes)
        ids = [target["image_id"].item() for target in targets]
        evaluator.update(dict(zip(ids, results, strict=True)))
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


def page_data(
    detector: Detector, evaluator: CocoEvaluator, summary: ErrorSummary, options: argparse.Namespace
) -> dict:
    """All that the page shows, without the worst images; see tools/report_page/page.js."""
    model = {name: getattr(detector.args, name) for name in MODEL_OPTIONS}
    named = list(zip(("AP", "AP50", "AP75"), evaluator.stats["bbox"], strict=False))
    if "segm" in evaluator.stats:
        named.append(("AP of masks", evaluator.stats["segm"][0]))
    return {
        "facts": [
            ("checkpoint", str(options.checkpoint)),
            ("data", str(evaluator.annotations.path)),
            ("images", f"{len(evaluator.annotations):,}"),
            ("objects", f"{summary.kinds[:, 1].sum():,}"),
            ("shown", f"detections of at least {options.threshold:g} (--threshold), right from an "
                      f"overlap of {options.iou:g} on (--iou)"),
            ("model", ", ".join(f"{name} {value}" for name, value in model.items() if value)),
            ("made", f"{datetime.datetime.now():%Y-%m-%d %H:%M}"),
        ],
        "tiles": [*named, *tiles(summary)],
        "tables": [(TABLES[kind], format_stats(row)) for kind, row in evaluator.stats.items()],
        **page_tables(summary, evaluator.coco_eval["bbox"]),
    }  # fmt: skip


def get_args_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="error_report.py", description=__doc__)
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="the detector's checkpoint, a file or an https address")
    add("--coco_path", metavar="DIR", help="data in COCO's folders, if not that of the training")
    add("--val_images", metavar="DIR", help="folder of the validation images")
    add("--val_ann", metavar="FILE", help="their annotations")
    add("--output", type=Path, default=Path("error_report.html"), metavar="FILE", help="the page")
    add("--threshold", type=number(0), default=0.5, help="least score of a detection that counts")
    add("--iou", type=number(0), default=0.5, help="least overlap of a detection that is right")
    add("--images", type=whole_number(0), default=24, help="how many of the worst images to show")
    add("--batch_size", type=whole_number(1), help="images at a time, if not as in training")
    add("--num_workers", type=whole_number(0), help="loader processes, if not as in training")
    add("--force", action="store_true", help="write over what is there")
    add_detector_options(parser)
    return parser


def check_options(options: argparse.Namespace) -> None:
    if not NEAR < options.iou <= 1:
        raise UserError(f"--iou must be above {NEAR} and at most 1, is {options.iou:g}")
    if options.output.is_dir() or not options.output.parent.is_dir():
        raise UserError(f"--output {options.output}: not a file in a folder that exists")
    check_absent(options.output, options.force, "--output")


def main() -> None:
    options = get_args_parser().parse_args()
    check_options(options)  # before anything takes long
    keep_freed_memory()
    detector = load_detector(options.checkpoint, options.device, options.trust_checkpoint)
    loader = validation_loader(detector, options)
    evaluator = evaluated(detector, loader)
    (found,) = evaluator.results
    summary = ErrorSummary(
        evaluator.annotations, found, detector.names, options.threshold, options.iou
    )
    data = page_data(detector, evaluator, summary, options)
    data["cards"] = [
        card(summary, index, loader.dataset.reader)
        for index in progress(summary.worst(options.images), "images")
    ]
    page = filled_page(PAGE, f"Errors of {options.checkpoint}", data)
    with replacing(options.output) as file:
        file.write(page.encode())
    print(f"{options.output}: {len(data['cards'])} worst of {len(evaluator.annotations)} image(s)")


if __name__ == "__main__":
    run_command(main)
