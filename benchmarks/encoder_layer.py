"""Measure one encoder layer, forward and backward, with RPE and without.

    python benchmarks/encoder_layer.py [--device cuda] [--amp bf16] [--json FILE]

Each line is the median of rounds in which all variants take turns: the ways that --attention
names, and the way the published code does it (see published/model.py). In training mode, with
dropout, two images, one of them padded. On the CPU freed memory is kept, so pages are warm.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from measure import machine, medians, rounds_of_map, show, working, write_json
from published.model import BaselineEncoderLayer

from models.rpe_attention import ATTENTION
from models.transformer import TransformerEncoderLayer
from rpe_ops.irpe import get_rpe_config
from training.amp import DTYPES, Precision
from util.memory import keep_freed_memory

MAPS = ("25x34", "25x42", "50x84")
WIDTH, HEADS = 256, 8


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--amp", choices=tuple(DTYPES), default="off", help="default: %(default)s")
    parser.add_argument("--batch_size", default=2, type=int, help="default: %(default)s")
    parser.add_argument("--rounds", default=11, type=int, help="default: %(default)s")
    parser.add_argument("--maps", nargs="+", default=MAPS,
                        help="HEIGHTxWIDTH; default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


def make_layers(device: torch.device) -> dict[str, TransformerEncoderLayer]:
    """Return layers by their label; "fused" only where it is supported."""
    config = get_rpe_config(2.0, "product", "ctx", rpe_on="k")
    ways = [way for way in ATTENTION if way != "fused" or device.type == "cuda"]
    layers = {
        f"{'with' if rpe else 'without'} RPE, {way}": TransformerEncoderLayer(
            WIDTH, HEADS, rpe_config=rpe, attention=way
        )
        for rpe in (None, config)
        for way in ways
        if rpe is not None or way != "fused"  # which exists for relative positions alone
    }
    layers["without RPE, as published"] = BaselineEncoderLayer(WIDTH, HEADS)
    layers["with RPE, as published"] = BaselineEncoderLayer(WIDTH, HEADS, rpe_config=config)
    return {name: layer.to(device).train() for name, layer in layers.items()}


def main(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    facts = machine(device)
    facts["amp"] = args.amp
    if device.type == "cpu":
        facts["memory"] = keep_freed_memory()
    show(facts)
    precision = Precision(args.amp, device)
    layers = make_layers(device)
    results = []
    for text in args.maps:
        height, width = map(int, text.split("x"))
        shape = (height * width, args.batch_size, WIDTH)
        x = torch.randn(shape, device=device, requires_grad=True)
        pos = torch.randn(shape, device=device)
        padding = torch.zeros(args.batch_size, height, width, dtype=torch.bool, device=device)
        padding[-1, :, width - width // 8 :] = True
        grad = torch.randn(shape, device=device)
        inputs = (x, padding.flatten(1), pos, (height, width))

        def step_of(layer: TransformerEncoderLayer, inputs=inputs, grad=grad) -> Callable:
            def step() -> None:
                with precision.autocast():
                    out = layer(*inputs)
                out.backward(grad.to(out.dtype))

            return step

        rounds = rounds_of_map(args.rounds, height * width, device)
        steps, errors = working({name: step_of(layer) for name, layer in layers.items()})
        times = medians(steps, device, rounds)
        print(f"\nforward + backward  B={args.batch_size} H={HEADS} L={height * width} ({text})")
        for name, error in errors.items():
            print(f"  {name:26} {error}")
            results.append({"map": text, "variant": name, "amp": args.amp, "error": error})
        reference = times["without RPE, auto"]
        for name, seconds in times.items():
            ratio = seconds / reference
            print(f"  {name:26} {seconds * 1e3:9.2f} ms {ratio:6.2f} x without RPE, auto")
            results.append(
                {"map": text, "batch_size": args.batch_size, "variant": name, "amp": args.amp,
                 "milliseconds": round(seconds * 1e3, 3), "times_without_rpe": round(ratio, 3)}
            )  # fmt: skip
        write_json(args.json, facts, results, done=False)
    write_json(args.json, facts, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
