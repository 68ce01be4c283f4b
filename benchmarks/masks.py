"""Measure time and peak memory of the mask head, here and the published way.

    python benchmarks/masks.py [--device cuda] [--size 800 1333] [--json FILE]

ResNet-50, 100 queries, random weights; an evaluation goes from images to run lengths of masks, a
training step has a frozen detector. Every way is a process of its own, and they take turns.

    detector    without masks
    all         with masks, the published way: those of all queries at once, as float32, in the size
                of the image
    here        with masks: queries in parts, in training matched ones alone; masks as bytes
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from measure import machine, random_target, show, write_json
from published.masks import postprocess_all, use_published_head

from arguments import get_args_parser as get_main_parser
from datasets.scoring.detections import Detections
from detection_task import build_optimizer
from models import build_model
from util.machine import keep_freed_memory
from util.misc import nested_tensor_from_tensor_list

MODEL = ["--enc_rpe2d", "rpe-2.0-product-ctx-1-k", "--resume", "not read"]
WAYS = {"eval": ("detector", "all", "here"), "train": ("all", "here")}
OBJECTS = 7  # of an image, as COCO has on average
ORIGINAL = (480, 800)  # size of the image that masks are brought to


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1333], metavar=("H", "W"),
                        help="of images; default: %(default)s")
    parser.add_argument("--batch_size", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--model_options", nargs="+", default=[], help="of main.py")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


def make_step(task: str, way: str, options: argparse.Namespace) -> Callable[[], None]:
    torch.manual_seed(0)
    device = torch.device(options.device)
    masks = [] if way == "detector" else ["--masks", "--frozen_weights", "not read"]
    args = get_main_parser().parse_args([*MODEL, *masks, *options.model_options])
    model, criterion, postprocessors = build_model(args)
    if way == "all":
        use_published_head(model)
    model.to(device)
    criterion.to(device)
    height, width = options.size
    samples = nested_tensor_from_tensor_list(torch.randn(options.batch_size, 3, height, width))
    samples = samples.to(device)
    targets = [random_target(OBJECTS, device) for _ in range(options.batch_size)]
    for target in targets:
        target["masks"] = torch.rand(OBJECTS, height, width, device=device) > 0.5
    sizes = torch.tensor([options.size] * options.batch_size, device=device)
    originals = torch.tensor([ORIGINAL] * options.batch_size, device=device)

    def train() -> None:
        match = {} if way == "all" else {"match": partial(criterion.match, targets=targets)}
        losses = criterion(model(samples, **match), targets)
        optimizer.zero_grad()
        sum(losses[name] for name in criterion.weight_dict if name in losses).backward()
        optimizer.step()

    @torch.no_grad()
    def evaluate() -> None:
        outputs = model(samples)
        results = postprocessors["bbox"](outputs, originals)
        if way == "all":
            postprocess_all(results, outputs, originals, sizes)
        elif way == "here":
            postprocessors["segm"](results, outputs, originals, sizes)
        for image, result in enumerate(results):
            Detections.of_image(image, result)

    model.train(task == "train")
    optimizer = build_optimizer(model, args)
    return train if task == "train" else evaluate


def serve(task: str, way: str, options: argparse.Namespace, connection: Connection) -> None:
    """Run a step for each message; answer with seconds and the peak memory so far in MB."""
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    step = make_step(task, way, options)
    on_gpu = options.device != "cpu"
    while connection.recv():
        begin = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        peak = torch.cuda.max_memory_allocated() if on_gpu else peak_of_process()
        connection.send((seconds, peak / 1e6))


def peak_of_process() -> int:
    """Return the peak memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(task: str, options: argparse.Namespace) -> list[dict]:
    spawn = multiprocessing.get_context("spawn")
    served = {}
    for way in WAYS[task]:
        connection, other = spawn.Pipe()
        process = spawn.Process(target=serve, args=(task, way, options, other), daemon=True)
        process.start()
        served[way] = (process, connection)
    seconds = {way: [] for way in served}
    peak = {}
    for number in range(options.rounds + 1):
        for way, (_, connection) in served.items():
            connection.send(True)
            value, peak[way] = connection.recv()
            if number:  # the first one warms up
                seconds[way].append(value)
    for process, connection in served.values():
        connection.send(False)
        process.join()
    first = WAYS[task][0]
    rows = []
    for way, values in seconds.items():
        median = statistics.median(values)
        row = {
            "task": task,
            "way": way,
            "seconds": round(median, 3),
            "peak_mb": round(peak[way]),
            "mb_above_first": round(peak[way] - peak[first]),
            "times_first": round(median / statistics.median(seconds[first]), 3),
        }
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        rows.append(row)
    return rows


def main(options: argparse.Namespace) -> None:
    options.threads = torch.get_num_threads()
    facts = machine(torch.device(options.device))
    facts["images"] = f"{options.batch_size} x 3 x {options.size[0]} x {options.size[1]}, float32"
    show(facts)
    rows = [row for task in WAYS for row in compare(task, options)]
    write_json(options.json, facts, rows)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
