"""Write an HTML page of what a classifier gets wrong on labelled images.

The folder is in the layout of ImageNet: FOLDER/val/CLASS/*.jpg or FOLDER/CLASS/*.jpg. Names of its
folders are those of the checkpoint's classes; where the checkpoint has none, or others, as many
folders as classes are taken in sorted order, as in training. Images are prepared as for the
published evaluation. The page has the confusion matrix, the largest confusions, accuracy of each
class and the worst images of each; it is one file that needs no network.

A file that is not a readable image is named on stderr and left out; the exit code is then 1.

examples:
  python classification/tools/error_page.py output/checkpoint.pth ImageNet
  python classification/tools/error_page.py output/checkpoint.pth data/val --output errors.html
"""

import argparse
import datetime
import importlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import add_detector_options
from training.start.options import add_checkpoint_argument
from util.cli import OneLineParser, answer_first, run_command, whole_number
from util.files import check_exists


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="error_page.py", description=__doc__)
    add = parser.add_argument
    add_checkpoint_argument(parser, "classifier", before="folder")
    add("folder", metavar="FOLDER", type=Path, help="with images in a folder a class")
    add("--output", type=Path, default=Path("errors.html"), metavar="FILE", help="the page")
    add("--per_class", type=whole_number(0), default=3, help="worst images of each class")
    add("--images", type=whole_number(0), default=300, help="most images that are shown")
    add("--average", action="store_true", help="take the averaged weights of the checkpoint")
    add("--batch_size", type=whole_number(1), default=64, help="images at a time")
    add("--num_workers", type=whole_number(0), help="loader processes; by default one a core")
    add("--force", action="store_true", help="overwrite an existing page")
    add_detector_options(parser)
    parser.file_checks.append(lambda args: check_exists(args.folder))
    return parser


if __name__ == "__main__":  # a missing timm is an error of one line
    answer_first(get_args_parser, lambda: importlib.import_module("classification"))

from classification.classifier import Classifier, load_classifier
from classification.tools.confusions.labelled import Labelled, find_labelled
from classification.tools.confusions.page import error_page
from classification.tools.confusions.scores import Scores, loader, score
from training.progress.bar import progress
from util.errors import UserError
from util.files import atomic_write, check_output_file
from util.machine import keep_freed_memory


def page_facts(
    classifier: Classifier, labelled: Labelled, scores: Scores, args: argparse.Namespace
) -> dict[str, str]:
    """Return where the page's numbers come from."""
    unread = int((~scores.seen).sum())
    return {
        "checkpoint": f"{args.checkpoint}{' (averaged weights)' if args.average else ''}",
        "images": f"{len(labelled.paths):,} in {labelled.folder}",
        **({"not readable": f"{unread:,} images, which are left out"} if unread else {}),
        "model": str(classifier.options),
        "made": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
    }


def main() -> None:
    args = get_args_parser().parse_args()
    check_output_file(args.output, args.force, "--output")  # before anything takes long
    keep_freed_memory()
    classifier = load_classifier(args.checkpoint, args.device, args.average, args.trust_checkpoint)
    labelled = find_labelled(args.folder, classifier.classes, args.checkpoint)
    workers = os.cpu_count() or 1 if args.num_workers is None else args.num_workers
    batches = loader(classifier, labelled, args.batch_size, workers)
    scores = score(classifier, labelled, progress(batches, "Evaluation"))
    if not scores.seen.any():
        raise UserError(f"{labelled.folder}: none of its images can be read")
    worst = scores.worst(args.per_class, args.images)
    page = error_page(
        f"Errors of {args.checkpoint}",
        page_facts(classifier, labelled, scores, args),
        scores,
        labelled,
        classifier.classes,
        progress(worst, "images"),
    )
    with atomic_write(args.output) as file:
        file.write(page.encode())
    right, seen = int(scores.right.sum()), int(scores.seen.sum())
    print(f"{args.output}: {right} of {seen} image(s) right, {right / seen:.2%}")
    if seen < len(labelled.paths):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
