"""Detect objects on images with a trained detector; draw them, and write COCO's results.

Everything about the model comes from the checkpoint. Writes to --output_dir a copy of each image
with boxes, class names, scores and masks drawn on it, and results.json. There, image_id is the
number that a file's name consists of, as in COCO, or else the image's place among all. Photos are
turned as their EXIF orientation says; boxes are those of the turned ones.

Where no score of any image reaches --threshold, the best three of each are drawn and marked, and
the best of all is printed. Results are written as they come. A file that is not a readable image is
named on stderr and skipped; the exit code is then 1.

examples:
  python tools/predict.py --resume output/checkpoint.pth photo.jpg
  python tools/predict.py --resume output/checkpoint.pth frames/ 'more/*.png' --threshold 0.7
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.ops import box_convert

from arguments import add_detector_options
from datasets.image_inputs import read_image
from datasets.masks import encode_masks
from detector import load_detector
from tools.image_files.low_scores import LowScores, split_by_score
from tools.image_files.reading import find_images, read_or_report
from tools.image_files.results import ResultsFile
from training.metrics import progress
from util.cli import OneLineParser, number, run_command, whole_number
from util.errors import UserError
from util.files import atomic_write, check_no_overwrite
from util.machine import keep_freed_memory
from util.pictures.drawing import drawn_on

RESULTS = "results.json"


def output_paths(images: list[Path], out: Path, force: bool) -> list[Path]:
    """Return where each image's copy goes; all are numbered if two images have the same name.

    Raises:
        UserError: a file would be overwritten.
    """
    stems = [image.stem for image in images]
    if len(set(stems)) < len(stems):
        stems = [f"{place:06}_{stem}" for place, stem in enumerate(stems, start=1)]
    targets = [out / f"{stem}.jpg" for stem in stems]
    originals = {image.resolve() for image in images}
    for target in [*targets, out / RESULTS]:
        if target.resolve() in originals:
            raise UserError(f"{target}: is one of the images; choose another --output_dir")
        check_no_overwrite(target, force, "--output_dir")
    return targets


def image_ids(images: list[Path]) -> list[int]:
    """Return the numbers in the images' names if these are unique numbers, else 1, 2, ..."""
    stems = [image.stem for image in images]
    if all(stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems):
        return list(map(int, stems))
    return list(range(1, len(images) + 1))


def coco_results(
    image_id: int, file_name: str, detections: dict, category_ids: Sequence[int]
) -> list[dict]:
    """Return an image's detections as entries of COCO's results, with the file's name.

    Args:
        detections: of one image, as from `Detector`.
        category_ids: by label.
    """
    boxes = box_convert(detections["boxes"], "xyxy", "xywh")
    masks = (
        encode_masks(detections["masks"].numpy()) if "masks" in detections else [None] * len(boxes)
    )
    entries = []
    for box, score, label, mask in zip(
        boxes.tolist(),
        detections["scores"].tolist(),
        detections["labels"].tolist(),
        masks,
        strict=True,
    ):
        entry = {"image_id": image_id, "file_name": file_name, "score": score}
        entry["category_id"] = category_ids[label]
        entry["bbox"] = box
        if mask is not None:
            entry["segmentation"] = {**mask, "counts": mask["counts"].decode()}
            entry["area"] = int(coco_mask.area(mask))
        entries.append(entry)
    return entries


def write_picture(path: Path, picture: Image.Image) -> None:
    with atomic_write(path) as file:
        picture.save(file, "JPEG", quality=92)


def get_args_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="predict.py", description=__doc__)
    add = parser.add_argument
    add("images", nargs="+", help="files, folders, or patterns such as 'frames/*.png'")
    add("--resume", required=True, metavar="PATH|URL", help="the detector's checkpoint")
    add("--output_dir", type=Path, default=Path("predictions"), help="folder to write to")
    add("--threshold", type=number(0, 1), default=0.5, help="lowest score of a detection")
    add("--batch_size", type=whole_number(1), default=1, help="images at a time")
    add("--force", action="store_true", help="overwrite existing files")
    add_detector_options(parser)
    return parser


def main() -> None:
    args = get_args_parser().parse_args()
    paths = find_images(args.images)
    targets = output_paths(paths, args.output_dir, args.force)  # before anything takes long
    ids = image_ids(paths)
    keep_freed_memory()
    detector = load_detector(args.resume, args.device, args.trust_checkpoint)
    category_ids = detector.args.category_ids or range(detector.args.num_classes)
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {args.output_dir}: {error.strerror}") from error

    results, done = ResultsFile(args.output_dir / RESULTS), 0
    low, unsure = LowScores(args.threshold), {}
    for start in progress(range(0, len(paths), args.batch_size), "images"):
        batch = range(start, min(start + args.batch_size, len(paths)))
        images = {i: image for i in batch if (image := read_or_report(paths[i])) is not None}
        detections = detector(list(images.values()), threshold=0)
        for (i, image), all_found in zip(images.items(), detections, strict=True):
            found, best = split_by_score(all_found, args.threshold)
            write_picture(targets[i], drawn_on(image, found))
            results.add(coco_results(ids[i], paths[i].name, found, category_ids))
            if not found["names"]:
                low.add(paths[i].name, best)
                unsure[i] = best
        done += len(images)
        if results.count:
            unsure.clear()  # they are drawn if nothing is found on any image
    for i, best in unsure.items():
        write_picture(targets[i], drawn_on(read_image(paths[i]), best, args.threshold))
    print(f"{done} image(s), {results.count} detection(s) in {args.output_dir}")
    if explanation := low.explanation(done):
        print(explanation)
    if done < len(paths):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
