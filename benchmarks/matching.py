"""Measure matching and losses of six decoder layers, all at once against one after the other.

    python benchmarks/matching.py [--device cuda] [--json FILE]

Random predictions of 100 queries and 91 classes, random objects. "matching" ends with the pairs on
the CPU, "criterion" is matching, all losses and their gradients. Published is what the published
code does (see published/model.py): a distance to the objects of all images, and a copy, for each
layer.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from measure import CLASSES, machine, medians, random_boxes, random_target, show, write_json
from published.model import BaselineCriterion

from models.criterion import SetCriterion
from models.matcher import HungarianMatcher

LAYERS, QUERIES = 6, 100
TERMS = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2}


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--batch_sizes", default=[2, 8, 16], type=int, nargs="+",
                        help="default: %(default)s")
    parser.add_argument("--objects", default=[7, 30], type=int, nargs="+",
                        help="mean number in an image; default: %(default)s")
    parser.add_argument("--rounds", default=11, type=int, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


def random_targets(batch_size: int, objects: int, device: torch.device) -> list[dict]:
    """Make targets with 0 to 2 * `objects` objects, `objects` on average."""
    counts = [round(2 * objects * i / max(batch_size - 1, 1)) for i in range(batch_size)]
    return [random_target(count, device) for count in counts]


def actions_of(
    logits: torch.Tensor, boxes: torch.Tensor, targets: list[dict]
) -> dict[str, Callable[[], object]]:
    """Return the timed actions by name; logits: (layers, B, Q, classes + 1), boxes: (..., 4)."""
    matcher = HungarianMatcher(1, 5, 2)
    suffixes = ["", *(f"_{i}" for i in range(LAYERS - 1))]
    weights = {name + suffix: weight for suffix in suffixes for name, weight in TERMS.items()}
    criteria = {
        name: kind(CLASSES, matcher, weights, 0.1).to(logits.device)
        for name, kind in (("published", BaselineCriterion), ("here", SetCriterion))
    }
    layers = [
        {"pred_logits": one, "pred_boxes": other}
        for one, other in zip(logits.unbind(), boxes.unbind(), strict=True)
    ]

    def published_matching() -> None:
        for layer in layers:
            criteria["published"].match(layer, targets)

    def criterion_step(name: str) -> None:
        losses = criteria[name]({**layers[-1], "aux_outputs": layers[:-1]}, targets)
        loss = sum(losses[term] * weight for term, weight in weights.items())
        torch.autograd.grad(loss, (logits, boxes))

    return {
        "matching, published": published_matching,
        "matching, here": lambda: matcher.match_layers(logits, boxes, targets),
        "criterion, published": lambda: criterion_step("published"),
        "criterion, here": lambda: criterion_step("here"),
    }


def main(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    facts = machine(device)
    show(facts)
    torch.manual_seed(0)
    results = []
    for batch_size in args.batch_sizes:
        for objects in args.objects:
            shape = (LAYERS, batch_size, QUERIES)
            logits = torch.randn(*shape, CLASSES + 1, device=device).requires_grad_()
            boxes = random_boxes(*shape).to(device).requires_grad_()
            targets = random_targets(batch_size, objects, device)
            times = medians(actions_of(logits, boxes, targets), device, args.rounds)
            print(f"\n{batch_size} images of {objects} objects on average")
            for name, seconds in times.items():
                faster = times[name.split(",")[0] + ", published"] / seconds
                print(f"  {name:22} {seconds * 1e3:8.2f} ms {faster:6.2f} x faster")
                results.append(
                    {"batch_size": batch_size, "objects": objects, "variant": name,
                     "milliseconds": round(seconds * 1e3, 3), "times_faster": round(faster, 3)}
                )  # fmt: skip
    write_json(args.json, facts, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
