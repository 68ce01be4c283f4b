"""Find objects on images with a trained detector: drawn on copies, and as COCO's results.

Everything about the model comes from the checkpoint. Writes a copy of each image with boxes, class
names, scores and masks drawn on it, and results.json, into --output_dir. There, image_id is the
number that a file's name consists of, as in COCO, or else the image's place among all. Photos that
lie on their side are turned, as their EXIF orientation says; boxes are those of the turned ones.

Results are written as they come. A file that is no readable image is named on stderr, and the
others go on; the exit code is 1 then.

examples:
  python tools/predict.py --resume output/checkpoint.pth photo.jpg
  python tools/predict.py --resume output/checkpoint.pth frames/ 'more/*.png' --threshold 0.7
"""

import argparse
import contextlib
import glob
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.ops import box_convert

from arguments import add_detector_options
from datasets.annotations.masks import to_run_lengths
from datasets.images import ImageReader
from datasets.orientation import upright
from detector import Detector, load_detector
from training.metrics import progress
from util.cli import (
    OneLineParser,
    number,
    run_command,
    whole_number,
)
from util.errors import UserError
from util.files import atomic_write, check_no_overwrite
from util.memory import keep_freed_memory
from util.plot_utils import drawn_on

RESULTS = "results.json"
# What a folder's images are known by; files that are named get looked at whatever they are called.
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"}


def find_images(given: list[str]) -> list[Path]:
    """The images that files, folders and patterns name, each once, those of a folder by name.

    Raises:
        UserError: one of them names none.
    """
    found: dict[Path, None] = {}
    for name in given:
        path = Path(name)
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES]
            if not inside:
                raise UserError(f"{path}: no images in this folder ({', '.join(sorted(SUFFIXES))})")
        elif path.exists():
            inside = [path]
        else:
            inside = [p for p in map(Path, sorted(glob.glob(name, recursive=True))) if p.is_file()]
            if not inside:
                raise UserError(f"{name}: no such file or folder, and no pattern that fits any")
        found.update(dict.fromkeys(inside))
    return list(found)


def copies(images: list[Path], out: Path, force: bool) -> list[Path]:
    """Where each image's copy goes; those of one name are numbered.

    Raises:
        UserError: something would be written over.
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
    """COCO's ids, if all names are numbers and different; else 1, 2, ..."""
    stems = [image.stem for image in images]
    if all(stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems):
        return list(map(int, stems))
    return list(range(1, len(images) + 1))


def entries(image_id: int, name: str, found: dict, category_ids: Sequence[int]) -> Iterator[dict]:
    """COCO's result entries of an image, with its file's name.

    Args:
        category_ids: by label.
    """
    boxes = box_convert(found["boxes"], "xyxy", "xywh")
    masks = to_run_lengths(found["masks"].numpy()) if "masks" in found else [None] * len(boxes)
    for box, score, label, mask in zip(
        boxes.tolist(), found["scores"].tolist(), found["labels"].tolist(), masks, strict=True
    ):
        entry = {"image_id": image_id, "file_name": name, "score": score}
        entry["category_id"] = category_ids[label]
        entry["bbox"] = box
        if mask is not None:
            entry["segmentation"] = {**mask, "counts": mask["counts"].decode()}
            entry["area"] = int(coco_mask.area(mask))
        yield entry


class Results:
    """A JSON file with a list that grows; it is whole whenever `add` is not at work.

    Args:
        path: of the file, made when something is added first; what was there goes then.

    Attributes:
        count: entries so far.
    """

    def __init__(self, path: Path):
        self.path, self.count = path, 0
        self._end = 0  # of the last entry; a bracket follows

    def add(self, more: list[dict]) -> None:
        """Add entries, or none; a UserError if they cannot be written."""
        if not self._end:
            with naming(self.path), atomic_write(self.path) as file:
                file.write(b"[]")
            self._end = 1
        if not more:
            return
        text = ",\n".join(map(json.dumps, more))
        with naming(self.path):
            try:
                self._write(f"{',' * (self.count > 0)}\n{text}\n]".encode())
            except OSError:  # a full disk: what was written before stays
                os.truncate(self.path, self._end)
                self._write(b"\n]")
                raise
        self._end = self.path.stat().st_size - 2
        self.count += len(more)

    def _write(self, text: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(self._end)
            file.write(text)


@contextlib.contextmanager
def naming(target: Path) -> Iterator[None]:
    """A UserError that names the file in place of the system's error."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error


def read_images(images: list[Path]) -> Iterator[Image.Image | None]:
    """Each image, upright; one that cannot be read is named on stderr, and None."""
    for image in images:
        try:
            yield upright(ImageReader(image.parent).read(image.name))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            yield None


def predict(
    detector: Detector, images: list[Path], targets: list[Path], args: argparse.Namespace
) -> int:
    """Find, draw and write; returns how many images could not be read."""
    ids = image_ids(images)
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {args.output_dir}: {error.strerror}") from error
    results, done = Results(args.output_dir / RESULTS), 0
    category_ids = detector.args.category_ids or range(detector.args.num_classes)
    starts = range(0, len(images), args.batch_size)
    for start in progress(starts, "images"):
        here = slice(start, start + args.batch_size)
        read = list(
            zip(read_images(images[here]), images[here], targets[here], ids[here], strict=True)
        )
        good = [entry for entry in read if entry[0] is not None]
        detections = detector([picture for picture, *_ in good], args.threshold)
        for (picture, image, target, image_id), found in zip(good, detections, strict=True):
            with naming(target):
                drawn_on(picture, found).save(target, quality=92)
            results.add(list(entries(image_id, image.name, found, category_ids)))
            done += 1
    print(f"{done} image(s), {results.count} detection(s) in {args.output_dir}")
    return len(images) - done


def get_args_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="predict.py", description=__doc__)
    add = parser.add_argument
    add("images", nargs="+", help="files, folders, or patterns such as 'frames/*.png'")
    add("--resume", required=True, metavar="PATH|URL", help="the detector's checkpoint")
    add("--output_dir", type=Path, default=Path("predictions"), help="folder of what is written")
    add("--threshold", type=number(0, 1), default=0.5, help="least score of a detection")
    add("--batch_size", type=whole_number(1), default=1, help="images at a time")
    add("--force", action="store_true", help="write over what is there")
    add_detector_options(parser)
    return parser


def main() -> None:
    args = get_args_parser().parse_args()
    images = find_images(args.images)
    targets = copies(images, args.output_dir, args.force)  # before anything takes long
    keep_freed_memory()
    detector = load_detector(args.resume, args.device, args.trust_checkpoint)
    if predict(detector, images, targets, args):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
