"""Measure one decoder layer, forward and backward, with relative positions (--dec_rpe) and without.

    python benchmarks/decoder_layer.py [--device cuda] [--amp bf16] [--json FILE]

Each line is the median of rounds in which all variants take turns. In training mode, with dropout,
100 queries, two images, one of them padded. With --dec_rpe the layer's bias is computed from
reference boxes, whose refinement by the box head is measured, too. On the CPU freed memory is kept,
so pages are warm.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from measure import layer_parser, layer_results, machine, show, write_json
from torch import nn

from models.box_bias import ReferenceBoxes
from models.box_bias.dec_rpe import parse_dec_rpe
from models.detr import MLP
from models.transformer import TransformerDecoderLayer
from training.amp import Precision
from util.machine import keep_freed_memory

MAPS = ("25x34", "25x42", "50x84")
WIDTH, HEADS, QUERIES = 256, 8, 100
VARIANTS = ("", "box-linear", "box-log", "box-log-relation")  # of --dec_rpe


class Step(nn.Module):
    """A decoder layer with what --dec_rpe adds to it."""

    def __init__(self, dec_rpe: str):
        super().__init__()
        self.layer = TransformerDecoderLayer(WIDTH, HEADS)
        config = parse_dec_rpe(dec_rpe)
        self.references = None if config is None else ReferenceBoxes(WIDTH, HEADS, config)
        self.bbox_embed = MLP(WIDTH, WIDTH, 4, num_layers=3)

    def forward(
        self, inputs: tuple[torch.Tensor, ...], boxes: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Run the layer on `inputs`, those of `TransformerDecoderLayer.forward`."""
        bias = None
        if self.references is not None:
            boxes = self.references.next_boxes(inputs[0].transpose(0, 1), boxes, self.bbox_embed)
            bias = self.references(boxes, mask)
        return self.layer(*inputs, bias)


def get_args_parser() -> argparse.ArgumentParser:
    return layer_parser(__doc__.splitlines()[0], MAPS)


def main(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    facts = machine(device)
    facts["amp"] = args.amp
    if device.type == "cpu":
        facts["memory"] = keep_freed_memory()
    show(facts)
    precision = Precision(args.amp, device)
    modules = {name or "none": Step(name).to(device).train() for name in VARIANTS}
    results = []
    for text in args.maps:
        height, width = map(int, text.split("x"))
        tgt, query_pos, grad = torch.randn(3, QUERIES, args.batch_size, WIDTH, device=device)
        memory, pos = torch.randn(2, height * width, args.batch_size, WIDTH, device=device)
        mask = torch.zeros(args.batch_size, height, width, dtype=torch.bool, device=device)
        mask[-1, :, width - width // 8 :] = True
        padding = torch.zeros(args.batch_size, height * width, device=device)
        padding.masked_fill_(mask.flatten(1), -torch.inf)
        inputs = (tgt.requires_grad_(), memory.requires_grad_(), padding, pos, query_pos)
        boxes = torch.randn(args.batch_size, QUERIES, 4, device=device)

        def step_of(
            module: Step, inputs=inputs, boxes=boxes, mask=mask, grad=grad
        ) -> Callable[[], None]:
            def step() -> None:
                with precision.autocast():
                    out = module(inputs, boxes, mask)
                out.backward(grad.to(out.dtype))

            return step

        print(f"\nforward + backward  B={args.batch_size} H={HEADS} Q={QUERIES} map {text}")
        steps = {name: step_of(module) for name, module in modules.items()}
        results += layer_results(steps, args, text, "none", "times_without")
        write_json(args.json, facts, results, done=False)
    write_json(args.json, facts, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
