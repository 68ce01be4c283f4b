"""Measure DeiT with encodings: a training step, a block, and the memory of a step.

    python benchmarks/classifier.py [--amp bf16] [--json FILE]

Times are medians of rounds in which all variants take turns, "published" as in
published/classifier.py. A step is forward, backward and AdamW's update of random images of
224 x 224. The memory is that of a process of its own, what it has at most above what it had with
the model and its optimizer. On the CPU.
"""

import argparse
import json
import resource
import subprocess
import sys
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
from util.memory import keep_freed_memory

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


def peak_mb(args: argparse.Namespace, way: str) -> float:
    """Return by how much a process grows in three steps, after it has a model and moments."""
    step = make_step(args, way)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main(args: argparse.Namespace) -> None:
    if args.peak:
        print(json.dumps(peak_mb(args, args.peak)))
        return
    facts = machine(CPU)
    facts |= {"amp": args.amp, "model": args.model, "batch_size": args.batch_size}
    show(facts)
    results = []
    ways = ["without", "k", "k, published", "qkv", "qkv, published"]
    options = ["--model", args.model, "--amp", args.amp, "--batch_size", str(args.batch_size)]
    for way in ways:
        command = [sys.executable, __file__, "--peak", way, *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results.append({"what": "memory of a step", "way": way, "mb": json.loads(done.stdout)})
        print(f"memory of a step, {way}: {results[-1]['mb']:.0f} MB", flush=True)
    keep_freed_memory()
    for what, make in (("block", make_block), ("training step", make_step)):
        times = medians({way: make(args, way) for way in ways}, CPU, args.rounds)
        for way, seconds in times.items():
            of_published = times.get(f"{way}, published", seconds) / seconds
            of_without = seconds / times["without"]
            results.append({"what": what, "way": way, "ms": seconds * 1e3,
                            "times_faster_than_published": of_published,
                            "of_without_encoding": of_without})  # fmt: skip
            print(
                f"{what}, {way}: {seconds * 1e3:.1f} ms, {of_without:.2f} x without, "
                f"{of_published:.2f} x as fast as published",
                flush=True,
            )
    if args.json is not None:
        write_json(args.json, facts, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
