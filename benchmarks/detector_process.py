"""Run one variant of the detector in a process of its own and time its steps on request.

Memory settings and peak memory belong to a process, so every variant has one; `whole_detector.py`
starts them and lets them take turns. Requests and answers are JSON, one a line: {"rounds": n} is
answered by {"seconds": [...], "peak_mb": ...}, and {"profile": n} by the n operators that take most
of a step, {"profile": [[name, calls, share of the time], ...]}. A first line, without a request,
says that the process is ready.
"""

import argparse
import json
import resource
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from measure import random_target
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from arguments import get_args_parser
from detection_task import build_optimizer
from models import build_model
from training.amp import DTYPES, Precision
from training.start.compile import compile_model
from util.machine import keep_freed_memory
from util.misc import nested_tensor_from_tensor_list

# A published model, batch norm frozen; as for a checkpoint, so that no weights are fetched.
MODEL = ["--enc_rpe2d", "rpe-2.0-product-ctx-1-k", "--resume", "not read"]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=("train", "eval"), required=True)
    parser.add_argument("--baseline", action="store_true")
    parser.add_argument("--keep_memory", action="store_true")
    parser.add_argument("--amp", choices=tuple(DTYPES), default="off")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--model_options", type=shlex.split, default=[], help="of main.py")
    return parser.parse_args()


def make_step(options: argparse.Namespace) -> Callable[[], None]:
    torch.manual_seed(0)
    device = torch.device(options.device)
    args = get_args_parser().parse_args([*MODEL, *options.model_options])
    model, criterion, postprocessors = build_model(args)
    model.to(device)
    criterion.to(device)
    precision = Precision(options.amp, device)
    optimizer = build_optimizer(model, args)
    if options.baseline:
        from published.model import make_baseline

        make_baseline(model, criterion, optimizer)
    if options.compile:
        compile_model(model)
    height, width = options.size
    images = [torch.randn(3, height - 20 * (i % 2), width) for i in range(options.batch_size)]
    samples = nested_tensor_from_tensor_list(images).to(device)
    targets = [random_target(7, device) for _ in images]
    sizes = torch.tensor([[height, width]] * len(images), device=device)

    def train() -> None:
        with precision.autocast():
            outputs = model(samples)
        losses = criterion(outputs, targets)
        loss = sum(losses[name] * weight for name, weight in criterion.weight_dict.items())
        optimizer.zero_grad()
        precision.backward(loss)
        precision.update(model, optimizer, args.clip_max_norm)

    @torch.no_grad()
    def evaluate() -> None:
        with precision.autocast():
            outputs = model(samples)
        postprocessors["bbox"](outputs, sizes)

    model.train(options.task == "train")
    return train if options.task == "train" else evaluate


def most_time(step: Callable[[], None], number: int, on_gpu: bool) -> list[list]:
    """Return [name, calls, share of time] of the slowest operators, or GPU kernels."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        step()
    where = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event)
        for event in profiled.key_averages()
        if event.device_type == where
    ]
    whole = sum(spent for spent, _ in found)
    longest = sorted(found, key=lambda pair: pair[0], reverse=True)[:number]
    return [[event.key[:80], event.count, round(spent / whole, 4)] for spent, event in longest]


def timed(step: Callable[[], None], rounds: int, on_gpu: bool) -> dict:
    """Return the seconds of each step, and the peak memory so far in MB."""
    seconds = []
    for _ in range(rounds):
        if on_gpu:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if on_gpu:
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {"seconds": seconds, "peak_mb": round(peak)}


def main() -> None:
    options = parse_args()
    if options.keep_memory:
        keep_freed_memory()
    step = make_step(options)
    on_gpu = options.device.startswith("cuda")
    step()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "profile" in request:
            answer = {"profile": most_time(step, request["profile"], on_gpu)}
        else:
            answer = timed(step, request["rounds"], on_gpu)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
