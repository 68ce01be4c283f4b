"""Detect objects on images or videos with a trained detector; draw them, and write the results.

Everything about the model comes from the checkpoint. Writes to --output_dir a copy of each image
with boxes, class names, scores and masks drawn on it, and results.json, COCO's results. There,
image_id is the number that a file's name consists of, as in COCO, or else the image's place among
all. Photos are turned as their EXIF orientation says; boxes are those of the turned ones.

Of a video (a file with a suffix such as .mp4, or --camera) it writes an annotated copy without
sound, and a line of JSON for each frame: its number, its time in seconds, and the detections. This
needs PyAV (pip install av), a camera OpenCV, too. Ctrl-C ends it; what was written can be played.

Where no score of any image reaches --threshold, the best three of each are drawn and marked, and
the best of all is printed. Results are written as they come. A file that is not readable is named
on stderr and skipped; the exit code is then 1.

examples:
  python tools/predict.py output/checkpoint.pth photo.jpg
  python tools/predict.py output/checkpoint.pth frames/ 'more/*.png' --threshold 0.7
  python tools/predict.py output/checkpoint.pth clip.mp4 --batch_size 8
  python tools/predict.py output/checkpoint.pth --camera 0
"""

import argparse
import contextlib
import itertools
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from arguments import add_detector_options
from tools.image_files.finding import find_images
from training.start.options import add_checkpoint_argument
from util.cli import OneLineParser, answer_first, number, run_command, whole_number


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="predict.py", description=__doc__)
    add = parser.add_argument
    add_checkpoint_argument(parser, before="images")
    add("images", nargs="*", help="images, videos, folders of images, patterns such as 'a/*.png'")
    add("--camera", type=whole_number(0), metavar="INDEX", help="a camera; the first one is 0")
    add("--output_dir", type=Path, default=Path("predictions"), help="folder to write to")
    add("--threshold", type=number(0, 1), default=0.5, help="lowest score of a detection")
    add("--batch_size", type=whole_number(1), default=1, help="images or frames at a time")
    add("--force", action="store_true", help="overwrite existing files")
    add_detector_options(parser)

    def check(args: argparse.Namespace) -> None:
        if not args.images and args.camera is None:
            parser.error("name images or videos, or a --camera, after the checkpoint or --resume")

    parser.checks.append(check)
    parser.file_checks.append(lambda args: find_images(args.images))
    return parser


if __name__ == "__main__":
    answer_first(get_args_parser)

from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.ops import box_convert

from datasets.image_inputs import read_image
from datasets.masks import encode_masks
from detector import Detector, load_detector
from tools.image_files.low_scores import LowScores, split_by_score
from tools.image_files.reading import read_or_report
from tools.image_files.results import ResultsFile
from tools.video.detection import OUTPUT_SUFFIXES, detect_on_video
from tools.video.reading import SUFFIXES as VIDEO_SUFFIXES
from tools.video.reading import Camera, VideoFile, import_av
from training.progress.bar import progress
from util.errors import UserError
from util.files import atomic_write, check_no_overwrite
from util.machine import keep_freed_memory
from util.pictures.drawing import drawn_on

RESULTS = "results.json"


def output_paths(inputs: list[Path], out: Path, suffixes: Sequence[str]) -> list[list[Path]]:
    """Return for each suffix the files of all inputs; numbered if two inputs have one name."""
    stems = [path.stem for path in inputs]
    if len(set(stems)) < len(stems):
        stems = [f"{place:06}_{stem}" for place, stem in enumerate(stems, start=1)]
    return [[out / f"{stem}{suffix}" for stem in stems] for suffix in suffixes]


def check_targets(targets: list[Path], inputs: list[Path], force: bool) -> None:
    """Raise a UserError if a file would be overwritten, or an input, even with --force."""
    originals = {path.resolve() for path in inputs}
    for target in targets:
        if target.resolve() in originals:
            raise UserError(f"{target}: is one of the inputs; choose another --output_dir")
        check_no_overwrite(target, force, "--output_dir")


def image_ids(images: list[Path]) -> list[int]:
    """Return the numbers in the images' names if these are unique numbers, else 1, 2, ..."""
    stems = [image.stem for image in images]
    if all(stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems):
        return list(map(int, stems))
    return list(range(1, len(images) + 1))


def coco_results(
    image_id: int, file_name: str, detections: dict, category_ids: Sequence[int]
) -> list[dict]:
    """Return an image's detections as entries of COCO's results, with the file's name."""
    image = {"image_id": image_id, "file_name": file_name}
    return [{**image, **entry} for entry in result_entries(detections, category_ids)]


def result_entries(detections: dict, category_ids: Sequence[int]) -> list[dict]:
    """Return detections as entries of COCO's results that do not say on which image.

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
        entry = {"score": score, "category_id": category_ids[label], "bbox": box}
        if mask is not None:
            entry["segmentation"] = {**mask, "counts": mask["counts"].decode()}
            entry["area"] = int(coco_mask.area(mask))
        entries.append(entry)
    return entries


def write_picture(path: Path, picture: Image.Image) -> None:
    with atomic_write(path) as file:
        picture.save(file, "JPEG", quality=92)


def main() -> None:
    args = get_args_parser().parse_args()
    inputs = find_images(args.images)
    clips = [path for path in inputs if path.suffix.lower() in VIDEO_SUFFIXES]
    images = [path for path in inputs if path.suffix.lower() not in VIDEO_SUFFIXES]
    # All that can be said before anything takes long.
    out = args.output_dir
    (pictures,) = output_paths(images, out, [".jpg"])
    sources: list[Path | int] = [*clips]
    files = list(zip(*output_paths(clips, out, OUTPUT_SUFFIXES), strict=True))
    if args.camera is not None:
        sources.append(args.camera)
        files.append(tuple(out / f"camera{args.camera}{suffix}" for suffix in OUTPUT_SUFFIXES))
    targets = [*pictures, *[out / RESULTS] * bool(images), *itertools.chain(*files)]
    check_targets(targets, inputs, args.force)
    if sources:
        import_av(str(sources[0]) if clips else "--camera")
    keep_freed_memory()
    detector = load_detector(args.checkpoint, args.device, args.trust_checkpoint)
    category_ids = detector.args.category_ids or range(detector.args.num_classes)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {out}: {error.strerror}") from error

    all_read = True
    if images:
        all_read = detect_on_images(args, detector, category_ids, images, pictures)
    for source, paths in zip(sources, files, strict=True):
        all_read &= detect_on_clip(args, detector, category_ids, source, paths)
    if not all_read:
        sys.exit(1)


def detect_on_images(
    args: argparse.Namespace,
    detector: Detector,
    category_ids: Sequence[int],
    paths: list[Path],
    targets: list[Path],
) -> bool:
    """Draw the detections on images, and write them; returns whether all images were readable."""
    ids = image_ids(paths)
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
    return done == len(paths)


def detect_on_clip(
    args: argparse.Namespace,
    detector: Detector,
    category_ids: Sequence[int],
    source: Path | int,
    files: Sequence[Path],
) -> bool:
    """Write the detections on a video file or a camera to two files; returns if it was readable.

    A file that is stopped by a signal ends the process; Ctrl-C is the usual end of a camera.
    """

    def entries(found: dict) -> list[dict]:
        rows = zip(result_entries(found, category_ids), found["names"], strict=True)
        return [{**entry, "name": name} for entry, name in rows]

    try:
        video = Camera(source) if isinstance(source, int) else VideoFile(source)
        with contextlib.closing(video):
            outcome = detect_on_video(
                video, detector, *files, entries, args.threshold, args.batch_size
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return False
    print(f"{outcome.frames} frame(s), {outcome.detections} detection(s) in {files[0]}")
    if outcome.explanation:
        print(outcome.explanation)
    if outcome.signal and not isinstance(source, int):
        print(f"stopped by {signal.Signals(outcome.signal).name}", file=sys.stderr)
        sys.exit(128 + outcome.signal)
    return True


if __name__ == "__main__":
    run_command(main)
