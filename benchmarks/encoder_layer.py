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
from measure import layer_parser, layer_results, machine, show, write_json
from published.model import BaselineEncoderLayer

from models.rpe_attention import ATTENTION
from models.transformer import TransformerEncoderLayer
from rpe_ops.irpe import get_rpe_config
from training.amp import Precision
from util.machine import keep_freed_memory

MAPS = ("25x34", "25x42", "50x84")
WIDTH, HEADS = 256, 8


def get_args_parser() -> argparse.ArgumentParser:
    return layer_parser(__doc__.splitlines()[0], MAPS)


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

        print(f"\nforward + backward  B={args.batch_size} H={HEADS} L={height * width} ({text})")
        steps = {name: step_of(layer) for name, layer in layers.items()}
        results += layer_results(steps, args, text, "without RPE, auto", "times_without_rpe")
        write_json(args.json, facts, results, done=False)
    write_json(args.json, facts, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
