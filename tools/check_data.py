"""List everything that is wrong with a data set in COCO's format, and not only the first error.

Reads the annotations, then decodes every image. Errors are what training would stop at, in the
same words; notes are what it tolerates. Exit code 1 if there are errors, else 0.

examples:
  python tools/check_data.py coco_data
  python tools/check_data.py my_data --split test --num_classes 12
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
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.layouts import COCO, Split, add_split_options, find_split, panoptic_root
from util.cli import OneLineParser, answer_first, run_command, whole_number


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="check_data.py", description=__doc__)
    add = parser.add_argument
    add("coco_path", nargs="?", help="folder with annotations and images, as for main.py")
    add_split_options(parser)
    add(
        "--coco_panoptic_path",
        type=Path,
        help="as for main.py: check it, too; coco_path may then lack instances_*.json",
    )
    add(
        "--split",
        default="both",
        choices=(*COCO, "both"),
        help="what to check; both: train and val, and test where there are annotations of it",
    )
    add("--jobs", default=usable_cores(), type=whole_number(1), help="processes")
    add(
        "--num_classes",
        type=whole_number(1),
        help="number of classes of the model: category ids must be below it; default: any",
    )
    add(
        "--num_queries",
        default=100,
        type=whole_number(1),
        help="most objects that the model finds in an image; default: %(default)s",
    )
    parser.file_checks.append(find_files)
    return parser


def has_test(args: argparse.Namespace) -> bool:
    """Return whether there are test images with annotations, which data need not have."""
    if args.test_images or args.test_ann:
        return True
    return bool(args.coco_path) and find_split("test", args, annotated=False).ann_file.exists()


def find_files(args: argparse.Namespace) -> tuple[Path | None, dict[str, Split]]:
    """Return the panoptic data, if they are to be checked, too, and the files of each split.

    Raises:
        UserError: some of them are missing.
    """
    splits = ("train", "val", *["test"] * has_test(args)) if args.split == "both" else (args.split,)
    panoptic = panoptic_root(args) if args.coco_panoptic_path else None
    return panoptic, {split: find_split(split, args, annotated=False) for split in splits}


if __name__ == "__main__":
    answer_first(get_args_parser)

from datasets.annotations import (
    AnnotatedImages,
    PanopticAnnotations,
    read_annotations,
    read_panoptic_annotations,
)
from datasets.annotations.sample_checks import (
    check_image_size,
    check_sample,
    check_segmentations,
    orientation_notes,
)
from datasets.annotations.segment_maps import MapReader, read_segments
from datasets.coco_panoptic import PANOPTIC_SPLITS
from datasets.images import ImageReader
from datasets.orientation import as_annotated
from datasets.validation.issues import NOTES, Issue, unreadable_image
from datasets.validation.queries import crowded_images
from training.progress.bar import progress
from util.errors import UserError

CHUNK_SIZE = 16  # images that a process gets at a time
MAX_EXAMPLES = 5  # annotations or images that a note names


@dataclass(eq=False)
class ImageChecker:
    """Finds the issues of one sample of detection data; sent to each process once."""

    annotations: AnnotatedImages
    reader: ImageReader

    def __call__(self, index: int) -> list[Issue]:
        """Return the issues of the sample at `index` that reading the file did not show."""
        annotations, issues = self.annotations, []
        height, width = annotations.annotated_size(index)
        try:
            stored = self.reader.read(annotations.file_name(index))
        except UserError as error:
            # Go on with the annotated size, which masks can be compared with.
            image_id = int(annotations.image_ids[index])
            issues.append(unreadable_image(annotations.path, image_id, error))
        else:
            used = as_annotated(stored, height, width)
            width, height = used.size
            issues += self.size_issues(index, height, width)
            issues += orientation_notes(annotations, index, stored, used)
        return [*issues, *self.mask_issues(index, height, width)]

    def size_issues(self, index: int, height: int, width: int) -> Iterator[Issue]:
        """Yield what the size of a readable image shows."""
        return check_sample(self.annotations, index, height, width, notes=True)

    def mask_issues(self, index: int, height: int, width: int) -> Iterator[Issue]:
        """Yield what is wrong with the objects' masks; the size is 0 if it is not known."""
        if height > 0 and width > 0:
            yield from check_segmentations(self.annotations, index, height, width)


@dataclass(eq=False)
class PanopticChecker(ImageChecker):
    """Finds the issues of one sample of panoptic data."""

    annotations: PanopticAnnotations
    maps: MapReader

    def size_issues(self, index: int, height: int, width: int) -> Iterator[Issue]:
        issue = check_image_size(self.annotations, index, height, width)
        if issue is not None:
            yield issue

    def mask_issues(self, index: int, height: int, width: int) -> Iterator[Issue]:
        if not self.annotations.png_name(index):
            return  # an issue of the file
        try:
            read_segments(self.annotations, self.maps, index, height, width)
        except UserError as error:
            yield Issue("", str(error), int(self.annotations.image_ids[index]))


def check_split(
    files: Split, split: str, num_classes: int | None, num_queries: int, jobs: int
) -> list[Issue]:
    """Return all issues of a split: those of its annotation file, then those of images by id."""
    issues = []
    try:
        annotations, issues = read_annotations(
            files.ann_file, num_classes, segmentations=True, notes=True
        )
        reader = ImageReader(files.images)
        reader.open_archive()  # if it is damaged, that is one issue, not one of each image
    except UserError as error:
        return [*issues, Issue("", str(error))]
    issues += crowded_images(annotations, num_queries)
    return issues + check_images(ImageChecker(annotations, reader), f"{split} images", jobs)


def check_panoptic_split(
    images: Path, panoptic: Path, split: str, num_classes: int | None, num_queries: int, jobs: int
) -> list[Issue]:
    """Return all issues of the panoptic data of a split, as `check_split` does.

    Args:
        images: folder of the images.
        panoptic: the folder --coco_panoptic_path.
    """
    folder, ann_file = PANOPTIC_SPLITS[split]
    issues = []
    try:
        annotations, issues = read_panoptic_annotations(panoptic / ann_file, num_classes)
        reader, maps = ImageReader(images), MapReader(panoptic / folder)
        reader.open_archive()  # as in check_split
        maps.open_archive()
    except UserError as error:
        return [*issues, Issue("", str(error))]
    issues += crowded_images(annotations, num_queries)
    checker = PanopticChecker(annotations, reader, maps)
    return issues + check_images(checker, f"{split} panoptic images", jobs)


def check_images(checker: ImageChecker, title: str, jobs: int) -> list[Issue]:
    """Return the issues of all samples, by image id, and show a progress bar meanwhile."""
    issues, count = [], len(checker.annotations)
    results = run_checks(checker, count, jobs)
    # Closed at once when Ctrl-C ends the loop: the bar leaves its line.
    with contextlib.closing(progress(range(count), title)) as steps:
        for _ in steps:
            issues += next(results)
    return issues


def run_checks(checker: ImageChecker, count: int, jobs: int) -> Iterator[list[Issue]]:
    """Yield the issues of the samples 0 to count - 1, in this order; `jobs` processes find them."""
    if jobs == 1:
        yield from map(checker, range(count))
        return
    # Ctrl-C reaches every process of the terminal: workers ignore it, this one ends them.
    early: list[int] = []  # while they are started
    handler = signal.signal(signal.SIGINT, lambda number, _: early.append(number))
    executor = ProcessPoolExecutor(jobs, initializer=_set_checker, initargs=(checker,))
    try:
        results = executor.map(_check, range(count), chunksize=CHUNK_SIZE)
        signal.signal(signal.SIGINT, handler)
        if early:
            raise KeyboardInterrupt
        yield from results
    except BrokenProcessPool as error:
        raise UserError(
            "a process that checks images died, perhaps for lack of memory; try --jobs 1"
        ) from error
    finally:
        signal.signal(signal.SIGINT, handler)
        executor.shutdown(cancel_futures=True)


def _set_checker(checker: ImageChecker) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    global _checker
    _checker = checker


def _check(index: int) -> list[Issue]:
    return _checker(index)


def summaries(notes: Iterable[Issue]) -> Iterator[str]:
    """Yield a line for each file and kind of note, with some of its annotations or images."""
    groups: dict[tuple[str, str], list[Issue]] = {}
    for note in notes:
        groups.setdefault((note.file, note.note), []).append(note)
    for (file, kind), group in groups.items():
        subject = "annotation" if group[0].annotation_id is not None else "image"
        examples = ", ".join(
            f"{n.annotation_id} of image {n.image_id}" if subject == "annotation" else n.message
            for n in group[:MAX_EXAMPLES]
        )
        more = f" and {len(group) - MAX_EXAMPLES} more" * (len(group) > MAX_EXAMPLES)
        yield f"{file}: {NOTES[kind]}: {len(group)}, {subject} {examples}{more}"


def report(issues: list[Issue]) -> bool:
    """Print issues, errors first; return whether there are errors."""
    errors = [issue for issue in issues if not issue.note]
    notes = [issue for issue in issues if issue.note]
    for error in errors:
        print(f"error: {error}")
    for line in summaries(notes):
        print(f"note: {line}")
    print(f"errors: {len(errors)}, notes: {len(notes)}")
    return bool(errors)


def main() -> None:
    args = get_args_parser().parse_args()
    panoptic, files = find_files(args)
    issues = []
    try:
        for split in files:
            common = split, args.num_classes, args.num_queries, args.jobs
            is_panoptic = panoptic is not None and split in PANOPTIC_SPLITS
            if not is_panoptic or files[split].ann_file.exists():
                issues += check_split(files[split], *common)
            if is_panoptic:
                issues += check_panoptic_split(files[split].images, panoptic, *common)
    except KeyboardInterrupt:
        print("interrupted, nothing was reported", file=sys.stderr)
        sys.exit(130)
    sys.exit(report(issues))


if __name__ == "__main__":
    run_command(main)
