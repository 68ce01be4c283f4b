"""Measure DeiT with encodings: a training step, a block, and the memory of a step.

    python benchmarks/classifier.py [--amp bf16] [--json FILE]

Times are medians of rounds in which all variants take turns, "published" as in
published/classifier.py. A step is forward, backward and AdamW's update of random images of
224 x 224, in a process of its own, whose freed memory is kept as training here does it; "released"
as PyTorch does it, and the published code with it. "Products alone" are the step's linear layers,
forward and backward: no way can be faster. The memory of a step is what its process has at most
above what it had with the model; that of a layer is of attention alone. On the
CPU.
"""

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timm
import torch
from measure import machine, medians, show, write_json
from published.classifier import make_baseline
from torch import nn

import classification  # noqa: F401 (registers the models)
from classification.attention import MapAndMask
from rpe_ops.irpe import TokenMap
from training.amp import DTYPES, Precision
from util.machine import keep_freed_memory

WAYS = {"without": "", "k": "rpe-1.9-product-ctx-1-k", "qkv": "rpe-1.9-product-ctx-1-qkv"}
CPU = torch.device("cpu")


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_small_patch16_224", help="default: %(default)s")
    parser.add_argument("--amp", choices=tuple(DTYPES), default="off", help="default: %(default)s")
    parser.add_argument("--batch_size", default=8, type=int, help="default: %(default)s")
    parser.add_argument("--rounds", default=7, type=int, help="default: %(default)s")
    parser.add_argument("--peak", metavar="WAY", help="print the memory of a step and nothing else")
    parser.add_argument("--layer_size", type=int, help="with --peak: of a layer of such images")
    parser.add_argument("--serve", metavar="WAY", help="do a step for each line read")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


def make_model(args: argparse.Namespace, way: str) -> nn.Module:
    """Build a classifier by the name of a way, which may end in ", published"."""
    torch.manual_seed(0)
    encoding, _, published = way.partition(", ")
    model = timm.create_model(args.model, enc_rpe2d=WAYS[encoding])
    for name, parameter in model.named_parameters():
        if "lookup_table" in name:
            nn.init.normal_(parameter, std=0.02)
    return make_baseline(model) if published else model


def make_step(args: argparse.Namespace, way: str) -> Callable[[], None]:
    """Return a training step."""
    model = make_model(args, way).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    precision = Precision(args.amp, CPU)
    images = torch.randn(args.batch_size, 3, 224, 224)
    labels = torch.randint(1000, (args.batch_size,))

    def step() -> None:
        with precision.autocast():
            loss = nn.functional.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def make_block(args: argparse.Namespace, way: str) -> Callable[[], None]:
    """Return forward and backward of a single block."""
    model = make_model(args, way).train()
    block, precision = model.blocks[0], Precision(args.amp, CPU)
    x = torch.randn(args.batch_size, 197, model.embed_dim, requires_grad=True)
    direction = torch.randn_like(x)
    where = MapAndMask(TokenMap(14, 14, 1), None)

    def step() -> None:
        with precision.autocast():
            out = block(x, where)
        out.float().backward(direction)

    return step


def make_products(args: argparse.Namespace) -> Callable[[], None]:
    """Return the matrix products of all linear layers, forward and backward."""
    model, dtype = make_model(args, "without"), DTYPES[args.amp] or torch.float32
    rows = args.batch_size * 197
    layers = [layer for layer in model.blocks.modules() if isinstance(layer, nn.Linear)]
    sizes = [tuple(layer.weight.shape) for layer in layers]
    operands = {
        size: (torch.randn(rows, size[1]).to(dtype), torch.randn(size).to(dtype),
               torch.randn(rows, size[0]).to(dtype))
        for size in set(sizes)
    }  # fmt: skip

    def step() -> None:
        for size in sizes:
            x, weight, grad = operands[size]
            nn.functional.linear(x, weight)
            grad @ weight
            grad.T @ x

    return step


def make_layer(args: argparse.Namespace, way: str) -> Callable[[], None]:
    """Return forward and backward of one layer's attention, on images of --layer_size."""
    side = args.layer_size // 16
    attention = make_model(args, way).train().blocks[0].attn
    x = torch.randn(args.batch_size, side * side + 1, attention.qkv.in_features, requires_grad=True)
    direction, precision = torch.randn_like(x), Precision(args.amp, CPU)
    where = MapAndMask(TokenMap(side, side, 1), None)

    def step() -> None:
        with precision.autocast():
            out = attention(x, where)
        out.float().backward(direction)

    return step


def peak_mb(args: argparse.Namespace, way: str) -> float:
    """Return by how much a process grows in three steps, after one of a single image."""
    make, batch_size = (make_layer if args.layer_size else make_step), args.batch_size
    args.batch_size = 1
    make(args, way)()  # loads libraries, and fills caches
    args.batch_size = batch_size
    step = make(args, way)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the first step has left
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark is that of now
    before = memory_kb("VmRSS")
    for _ in range(3):
        step()
    return (memory_kb("VmHWM") - before) / 1024


def memory_kb(name: str) -> int:
    """Return what Linux says of this process: VmRSS now has, VmHWM had at most."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0])


def serve(args: argparse.Namespace, way: str) -> None:
    """Do a step for each line of stdin, and print its seconds."""
    way, _, memory = way.partition("; ")
    if memory != "released":
        keep_freed_memory()
    step = make_products(args) if way == "products alone" else make_step(args, way)
    for _ in sys.stdin:
        begin = time.perf_counter()
        step()
        print(time.perf_counter() - begin, flush=True)


def times_of_steps(ways: list[str], options: list[str], rounds: int) -> dict[str, float]:
    """Return the median seconds of a step each way, each in a process of its own, in turns."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    processes = {
        way: subprocess.Popen([sys.executable, __file__, "--serve", way, *options], **pipes)
        for way in ways
    }

    def step(process: subprocess.Popen) -> float:
        process.stdin.write("step\n")
        return float(process.stdout.readline())

    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 2):
        for way, process in processes.items():
            seconds = step(process)
            if number >= 2:
                times[way].append(seconds)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return {way: statistics.median(values) for way, values in times.items()}


def main(args: argparse.Namespace) -> None:
    if args.serve:
        serve(args, args.serve)
        return
    if args.peak:
        print(json.dumps(peak_mb(args, args.peak)))
        return
    facts = machine(CPU)
    facts |= {"amp": args.amp, "model": args.model, "batch_size": args.batch_size}
    show(facts)
    results = []
    ways = ["without", "k", "k, published", "qkv", "qkv, published"]
    options = ["--model", args.model, "--amp", args.amp, "--batch_size", str(args.batch_size)]
    for what, more in (
        ("a step", []), ("a layer, 224 pixels", ["--layer_size", "224"]),
        ("a layer, 384 pixels", ["--layer_size", "384"]),
    ):  # fmt: skip
        for way in ways:
            command = [sys.executable, __file__, "--peak", way, *more, *options]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.append({"what": f"memory of {what}", "way": way, "mb": json.loads(done.stdout)})
            print(f"memory of {what}, {way}: {results[-1]['mb']:.0f} MB", flush=True)
    steps = [*ways, "k, published; released", "qkv, published; released", "products alone"]
    step_times = times_of_steps(steps, options, args.rounds)
    keep_freed_memory()
    block_times = medians({way: make_block(args, way) for way in ways}, CPU, args.rounds)
    for what, times in (("block", block_times), ("training step", step_times)):
        for way, seconds in times.items():
            ratios = {"of_without_encoding": seconds / times["without"]}
            for name, memory in (("published", ""), ("published_as_run", "; released")):
                other = times.get(f"{way}, published{memory}")
                if other is not None:
                    ratios[f"times_faster_than_{name}"] = other / seconds
            results.append({"what": what, "way": way, "ms": seconds * 1e3, **ratios})
            shown = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
            print(f"{what}, {way}: {seconds * 1e3:.1f} ms, {shown}", flush=True)
    if args.json is not None:
        write_json(args.json, facts, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
