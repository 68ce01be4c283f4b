"""List everything that is wrong with a data set in COCO's format, and not only the first fault.

Reads the annotations, then decodes every image. Errors are what training would stop at, in the
same words; notes are what it puts up with. Exit code 1 if there are errors, else 0.

examples:
  python tools/check_data.py coco_data
  python tools/check_data.py my_data --split train --num_classes 12
  python tools/check_data.py coco_data --coco_panoptic_path coco_panoptic
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.annotations.instances import read_annotations
from datasets.annotations.panoptic import PanopticAnnotations, read_panoptic_annotations
from datasets.annotations.sample_checks import (
    orientation_notes,
    outline_faults,
    sample_faults,
    told_size_fault,
)
from datasets.annotations.segment_maps import MapReader, read_segments
from datasets.annotations.store import AnnotatedImages
from datasets.coco_panoptic import PANOPTIC_SPLITS, panoptic_root
from datasets.images import ImageReader
from datasets.layouts import (
    COCO,
    Split,
    add_split_options,
    find_split,
)
from datasets.orientation import as_annotated
from datasets.validation.faults import NOTES, Fault, reading_fault
from training.metrics import progress
from util.cli import OneLineParser, run_command, whole_number
from util.errors import UserError

CHUNK = 16  # images that a process is given at a time
EXAMPLES = 5  # annotations or images that a note names


class ImageChecker:
    """Finds the faults of one sample; sent to each process once."""

    def __init__(self, annotations: AnnotatedImages, reader: ImageReader):
        self.annotations = annotations
        self.reader = reader

    def __call__(self, index: int) -> list[Fault]:
        """Of the image at `index` and its annotations, without those the file alone shows."""
        known, faults = self.annotations, []
        # Outlines can be compared with what the file tells, if the image cannot be read.
        height, width = int(known.heights[index]), int(known.widths[index])
        try:
            stored = self.reader.read(known.file_name(index))
        except UserError as error:
            faults.append(reading_fault(known.path, int(known.image_ids[index]), error))
        else:
            used = as_annotated(stored, height, width)
            width, height = used.size
            faults += self.size_faults(index, height, width)
            faults += orientation_notes(known, index, stored, used)
        return [*faults, *self.object_faults(index, height, width)]

    def size_faults(self, index: int, height: int, width: int) -> Iterator[Fault]:
        """What the size of a readable image shows."""
        return sample_faults(self.annotations, index, height, width, notes=True)

    def object_faults(self, index: int, height: int, width: int) -> Iterator[Fault]:
        """Of what tells where objects are; the size is 0 if it is not known."""
        if height > 0 and width > 0:
            yield from outline_faults(self.annotations, index, height, width)


class PanopticChecker(ImageChecker):
    """The same for samples of a panoptic data set."""

    def __init__(self, annotations: PanopticAnnotations, reader: ImageReader, maps: MapReader):
        super().__init__(annotations, reader)
        self.maps = maps

    def size_faults(self, index: int, height: int, width: int) -> Iterator[Fault]:
        fault = told_size_fault(self.annotations, index, height, width)
        if fault is not None:
            yield fault

    def object_faults(self, index: int, height: int, width: int) -> Iterator[Fault]:
        if not self.annotations.png_name(index):
            return  # as the file's faults say
        try:
            read_segments(self.annotations, self.maps, index, height, width)
        except UserError as error:
            yield Fault("", str(error), int(self.annotations.image_ids[index]))


def check_split(files: Split, split: str, num_classes: int | None, jobs: int) -> list[Fault]:
    """All faults of a split: those of its annotation file, then those of images by id."""
    faults = []
    try:
        known, faults = read_annotations(
            files.ann_file, num_classes, segmentations=True, notes=True
        )
        reader = ImageReader(files.images)
        reader.open_archive()  # if it is damaged, that is one fault, not one of each image
    except UserError as error:
        return [*faults, Fault("", str(error))]
    return faults + check_images(ImageChecker(known, reader), f"{split} images", jobs)


def check_panoptic_split(
    images: Path, panoptic: Path, split: str, num_classes: int | None, jobs: int
) -> list[Fault]:
    """As `check_split`, of the maps of segments in the folder `panoptic` and their images."""
    folder, ann_file = PANOPTIC_SPLITS[split]
    faults = []
    try:
        known, faults = read_panoptic_annotations(panoptic / ann_file, num_classes)
        reader, maps = ImageReader(images), MapReader(panoptic / folder)
        reader.open_archive()  # as above
        maps.open_archive()
    except UserError as error:
        return [*faults, Fault("", str(error))]
    checker = PanopticChecker(known, reader, maps)
    return faults + check_images(checker, f"{split} panoptic images", jobs)


def check_images(checker: ImageChecker, title: str, jobs: int) -> list[Fault]:
    """Those of images and what belongs to them, by id."""
    faults, count = [], len(checker.annotations)
    found = results(checker, count, jobs)
    # Closed at once when Ctrl-C ends it: the bar leaves its line.
    with contextlib.closing(progress(range(count), title)) as steps:
        for _ in steps:
            faults += next(found)
    return faults


def results(checker: ImageChecker, count: int, jobs: int) -> Iterator[list[Fault]]:
    """Of the images 0 to count - 1, in this order however many processes share them."""
    if jobs == 1:
        yield from map(checker, range(count))
        return
    # Ctrl-C reaches every process of the terminal; only this one is to answer.
    answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
    executor = ProcessPoolExecutor(jobs, initializer=_set_checker, initargs=(checker,))
    try:
        found = executor.map(_check, range(count), chunksize=CHUNK)
        signal.signal(signal.SIGINT, answer)
        yield from found
    except BrokenProcessPool as error:
        raise UserError(
            "a process that checks images died, perhaps for lack of memory; try --jobs 1"
        ) from error
    finally:
        signal.signal(signal.SIGINT, answer)
        executor.shutdown(cancel_futures=True)


def _set_checker(checker: ImageChecker) -> None:
    global _checker
    _checker = checker


def _check(index: int) -> list[Fault]:
    return _checker(index)


def summaries(notes: Iterable[Fault]) -> Iterator[str]:
    """A line for each file and kind of note, with some of the annotations or images."""
    groups: dict[tuple[str, str], list[Fault]] = {}
    for note in notes:
        groups.setdefault((note.file, note.note), []).append(note)
    for (file, kind), group in groups.items():
        about = "annotation" if group[0].annotation_id is not None else "image"
        named = ", ".join(
            f"{n.annotation_id} of image {n.image_id}" if about == "annotation" else n.words
            for n in group[:EXAMPLES]
        )
        more = f" and {len(group) - EXAMPLES} more" * (len(group) > EXAMPLES)
        yield f"{file}: {NOTES[kind]}: {len(group)}, {about} {named}{more}"


def report(faults: list[Fault]) -> bool:
    """Print faults, errors first; are there any errors?"""
    errors = [fault for fault in faults if not fault.note]
    notes = [fault for fault in faults if fault.note]
    for error in errors:
        print(f"error: {error}")
    for line in summaries(notes):
        print(f"note: {line}")
    print(f"errors: {len(errors)}, notes: {len(notes)}")
    return bool(errors)


def usable_cores() -> int:
    """Of this process, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def get_args_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="check_data.py", description=__doc__)
    add = parser.add_argument
    add("coco_path", nargs="?", help="folder with annotations and images, as for main.py")
    add_split_options(parser)
    add(
        "--coco_panoptic_path",
        type=Path,
        help="as for main.py: checked, too; coco_path may then lack instances_*.json",
    )
    add("--split", default="both", choices=(*COCO, "both"), help="what to check")
    add("--jobs", default=usable_cores(), type=whole_number(1), help="processes")
    add(
        "--num_classes",
        type=whole_number(1),
        help="of the model to train: category ids must be below it; any are, if not given",
    )
    return parser


def main() -> None:
    args = get_args_parser().parse_args()
    splits = COCO if args.split == "both" else (args.split,)
    panoptic = args.coco_panoptic_path and panoptic_root(args)
    files = {split: find_split(split, args, annotated=False) for split in splits}
    faults = []
    try:
        for split in splits:
            common = split, args.num_classes, args.jobs
            if panoptic is None or files[split].ann_file.exists():
                faults += check_split(files[split], *common)
            if panoptic is not None:
                faults += check_panoptic_split(files[split].images, panoptic, *common)
    except KeyboardInterrupt:
        print("interrupted, nothing was reported", file=sys.stderr)
        sys.exit(130)
    sys.exit(report(faults))


if __name__ == "__main__":
    run_command(main)
