"""Measure the memory of loader processes that have read the targets of a whole training split.

    python benchmarks/loader_memory.py [--images N] [--workers N ...] [--json FILE]

It writes an annotation file of the size of COCO's training split and measures, for each way to hold
it in memory, the proportional set size (PSS) of a process and its forked workers together: a page
that k processes share counts 1/k in each. Every way has a fresh process. Linux only.

    objects      pycocotools' COCO object, as it comes
    arrays       datasets.annotations.store.Annotations
    arrays+masks the same with the outlines, as return_masks needs them
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from measure import machine, show, write_json
from pycocotools.coco import COCO

from datasets.coco import CocoDetection
from datasets.transforms_functional import target_boxes

WIDTH, HEIGHT = 640, 480


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default=118_000, type=int, help="default: %(default)s")
    parser.add_argument("--workers", default=[1, 8], type=int, nargs="+",
                        help="numbers of workers to compare; default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


def write_annotations(path: Path, images: int, seed: int = 0) -> int:
    """Write a synthetic instances_*.json of about 7.3 annotations an image, eight numbers each.

    Returns:
        The number of annotations.
    """
    rng = np.random.default_rng(seed)
    counts = rng.poisson(7.3, images)
    total = int(counts.sum())
    owners = np.repeat(np.arange(1, images + 1), counts)
    boxes = rng.uniform(1, 200, (total, 4)).round(2)
    categories = rng.integers(1, 91, total)
    with path.open("w") as file:
        entries = (
            json.dumps({"id": i, "file_name": f"{i:012}.jpg", "height": HEIGHT, "width": WIDTH})
            for i in range(1, images + 1)
        )
        file.write('{"images": [' + ",\n".join(entries) + '], "annotations": [')
        columns = zip(owners.tolist(), categories.tolist(), boxes.tolist(), strict=True)
        for number, (owner, category, box) in enumerate(columns, start=1):
            x, y, w, h = box
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotation = {
                "id": number, "image_id": owner, "category_id": category, "bbox": box,
                "area": w * h, "iscrowd": 0, "segmentation": [outline],
            }  # fmt: skip
            file.write(",\n" * (number > 1) + json.dumps(annotation))
        names = [{"id": i, "name": f"class {i}"} for i in range(1, 91)]
        file.write(f'], "categories": {json.dumps(names)}}}')
    return total


def walk_objects(path: Path) -> Callable[[], None]:
    """Build the targets of all images from pycocotools' objects."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(path)

    def walk() -> None:
        for image_id in sorted(coco.imgs):
            entries = [a for a in coco.imgToAnns[image_id] if not a["iscrowd"]]
            boxes = np.array([a["bbox"] for a in entries]).reshape(-1, 4)
            target_boxes(boxes, HEIGHT, WIDTH)
            torch.tensor([a["category_id"] for a in entries], dtype=torch.int64)
            torch.tensor([a["area"] for a in entries], dtype=torch.float32)

    return walk


def walk_arrays(path: Path, masks: bool = False) -> Callable[[], None]:
    """Build the targets of all images as training does, with `masks` also the outlines."""
    dataset = CocoDetection(path.parent, path, lambda *sample: sample, return_masks=masks)
    dataset.return_masks = False  # drawing masks is not what is measured

    def walk() -> None:
        for index in range(len(dataset)):
            dataset.annotations.file_name(index)
            dataset.target(index, WIDTH, HEIGHT)
            for number in dataset.annotations.objects(index) if masks else ():
                dataset.annotations.segmentation(number)

    return walk


WAYS = {
    "objects": walk_objects,
    "arrays": walk_arrays,
    "arrays+masks": lambda path: walk_arrays(path, masks=True),
}


def proportional_size(process: int) -> int:
    """Return the proportional set size of a process in bytes."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("Pss:"))
    return int(kilobytes) * 1024


def measure(way: str, path: Path, workers: int, results) -> None:
    """Put the bytes of this process and its workers together into the queue `results`."""
    torch.set_num_threads(1)
    walk = WAYS[way](path)
    fork = multiprocessing.get_context("fork")
    walked, measured = fork.Barrier(workers + 1), fork.Barrier(workers + 1)

    def work() -> None:
        walk()
        walked.wait()
        measured.wait()

    processes = [fork.Process(target=work) for _ in range(workers)]
    for process in processes:
        process.start()
    walked.wait()
    results.put(sum(map(proportional_size, [os.getpid(), *(p.pid for p in processes)])))
    measured.wait()
    for process in processes:
        process.join()


def main(args: argparse.Namespace) -> None:
    facts = machine(torch.device("cpu"))
    spawn = multiprocessing.get_context("spawn")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        total = write_annotations(path, args.images)
        facts["data"] = (
            f"{args.images} images, {total} annotations, {path.stat().st_size / 1e6:.0f} MB"
        )
        show(facts)
        for way in WAYS:
            sizes = {}
            for workers in args.workers:
                results = spawn.SimpleQueue()
                process = spawn.Process(target=measure, args=(way, path, workers, results))
                process.start()
                sizes[workers] = results.get()
                process.join()
                ratio = sizes[workers] / sizes[args.workers[0]]
                print(f"{way:13} {workers:3} workers {sizes[workers] / 1e6:9.0f} MB {ratio:6.2f} x")
                rows.append(
                    {"way": way, "workers": workers, "megabytes": round(sizes[workers] / 1e6),
                     "times_first": round(ratio, 3)}
                )  # fmt: skip
    write_json(args.json, facts, rows)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
