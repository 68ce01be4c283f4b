"""Say what is on images with a trained classifier: the most probable classes of each file.

Everything about the model comes from the checkpoint. Images are prepared as for the published
evaluation; photos are turned as their EXIF orientation says. --json writes a list with an entry for
each image: file_name, and classes, the most probable first, each with its name and probability.

Results are written as they come. A file that is not a readable image is named on stderr and
skipped; the exit code is then 1.

examples:
  python classification/tools/predict.py output/checkpoint.pth photo.jpg
  python classification/tools/predict.py output/checkpoint.pth frames/ --topk 1 --json r.json
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import add_detector_options
from tools.image_files.finding import find_images
from training.start.options import add_checkpoint_argument
from util.cli import OneLineParser, answer_first, run_command, whole_number


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="predict.py", description=__doc__)
    add = parser.add_argument
    add_checkpoint_argument(parser, "classifier", before="images")
    add("images", nargs="+", help="files, folders, or patterns such as 'frames/*.png'")
    add("--topk", type=whole_number(1), default=5, help="classes of each image")
    add("--json", type=Path, metavar="FILE", help="write the results to this file, too")
    add("--average", action="store_true", help="take the averaged weights of the checkpoint")
    add("--batch_size", type=whole_number(1), default=16, help="images at a time")
    add("--force", action="store_true", help="overwrite an existing file")
    add_detector_options(parser)
    parser.file_checks.append(lambda args: find_images(args.images))
    return parser


if __name__ == "__main__":  # a missing timm is an error of one line
    answer_first(get_args_parser, lambda: importlib.import_module("classification"))

from classification.classifier import load_classifier
from tools.image_files.reading import read_or_report
from tools.image_files.results import ResultsFile
from training.progress.bar import progress
from util.errors import UserError
from util.files import check_output_file
from util.machine import keep_freed_memory


def lines_of(path: Path, found: list[tuple[str, float]]) -> list[str]:
    """Return what is printed for an image: its path, and a line for each class."""
    return [str(path), *(f"  {probability:6.1%}  {name}" for name, probability in found)]


def check_json(path: Path, images: list[Path], force: bool) -> None:
    """Raise a UserError if results cannot be written there."""
    if path.resolve() in {image.resolve() for image in images}:
        raise UserError(f"--json {path}: is one of the images")
    check_output_file(path, force, "--json")


def main() -> None:
    args = get_args_parser().parse_args()
    paths = find_images(args.images)
    results = None
    if args.json is not None:  # before anything takes long
        check_json(args.json, paths, args.force)
        results = ResultsFile(args.json)
    keep_freed_memory()
    classifier = load_classifier(args.checkpoint, args.device, args.average, args.trust_checkpoint)
    done = 0
    for start in progress(range(0, len(paths), args.batch_size), "images"):
        batch = paths[start : start + args.batch_size]
        images = {path: image for path in batch if (image := read_or_report(path)) is not None}
        entries = []
        found_of_all = classifier.predict(list(images.values()), args.topk)
        for path, found in zip(images, found_of_all, strict=True):
            print("\n".join(lines_of(path, found)))
            classes = [{"name": name, "probability": value} for name, value in found]
            entries.append({"file_name": str(path), "classes": classes})
        if results is not None:
            results.add(entries)
        done += len(images)
    print(f"{done} of {len(paths)} image(s)" + (f" in {args.json}" if results else ""))
    if done < len(paths):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
