"""Shared by benchmarks: timing in turns, random data, the machine, result files."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from rpe_ops.attention.fused import triton_version
from training.amp import DTYPES
from util.box_ops import box_xyxy_to_cxcywh
from util.machine import machine_facts

CLASSES = 91


def medians(
    actions: dict[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, float]:
    """Return each action's median seconds; actions take turns, so that load affects all alike."""
    for action in actions.values():
        for _ in range(2):
            action()
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            times[name].append(_seconds(action, device))
    return {name: statistics.median(values) for name, values in times.items()}


def working(
    actions: dict[str, Callable[[], object]],
) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """Call each action once; return those that work, and the errors of the others, a line each."""
    found, errors = {}, {}
    for name, action in actions.items():
        try:
            action()
        except Exception as error:
            line = next(iter(str(error).strip().splitlines()), "")
            errors[name] = f"{type(error).__name__}: {line}"
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # it may have been too little memory
        else:
            found[name] = action
    return found, errors


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        action()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def rounds_of_map(rounds: int, tokens: int, device: torch.device) -> int:
    """Return fewer rounds, at least three, for large maps on CPUs, where each takes seconds."""
    return rounds if device.type != "cpu" else max(3, rounds * 1100 // max(tokens, 1100))


def random_boxes(*shape: int) -> torch.Tensor:
    """Draw boxes (*shape, 4) as (cx, cy, w, h) in [0, 1]."""
    return box_xyxy_to_cxcywh(torch.rand(*shape, 2, 2).sort(dim=-2).values.flatten(-2))


def random_target(objects: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Draw the part of an image's target that criterion and matcher read."""
    boxes = random_boxes(objects)
    return {
        "labels": torch.randint(CLASSES, (objects,)).to(device),
        "boxes": boxes.to(device),
        "image_id": torch.tensor(0),
    }


def machine(device: torch.device) -> dict[str, str]:
    """Describe what a result depends on besides the code."""
    facts = {"date": date.today().isoformat(), **machine_facts(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["capability"] = f"{properties.major}.{properties.minor}"
        facts["gpu_memory"] = f"{properties.total_memory / 2**30:.0f} GiB"
        facts["triton"] = triton_version()
    return facts


def show(facts: dict[str, str]) -> None:
    for name, fact in facts.items():
        print(f"{name:8} {fact}")


def write_json(
    path: Path | None, facts: dict[str, str], results: list[dict], done: bool = True
) -> None:
    """Write the result file, if one is asked for, and print its path.

    Args:
        done: False while more is to come: what is there already then outlives a time limit.
    """
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": facts, "results": results}, indent=1) + "\n")
    if done:
        print(f"\nwritten to {path}")


def layer_parser(description: str, maps: tuple[str, ...]) -> argparse.ArgumentParser:
    """Return a parser of the options of benchmarks of one layer, on maps of these sizes."""
    # fmt: off
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--amp", choices=tuple(DTYPES), default="off", help="default: %(default)s")
    parser.add_argument("--batch_size", default=2, type=int, help="default: %(default)s")
    parser.add_argument("--rounds", default=11, type=int, help="default: %(default)s")
    parser.add_argument("--maps", nargs="+", default=maps,
                        help="HEIGHTxWIDTH; default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


def layer_results(
    steps: dict[str, Callable[[], None]],
    args: argparse.Namespace,
    map_size: str,
    reference: str,
    ratio_name: str,
) -> list[dict]:
    """Measure the variants of a layer on a map in turns, print a line for each; return results.

    Args:
        args: of `layer_parser`.
        map_size: HEIGHTxWIDTH.
        reference: the variant that the others are compared with.
        ratio_name: of the ratio to it, in the results.
    """
    height, width = map(int, map_size.split("x"))
    device, column = torch.device(args.device), max(map(len, steps))
    working_steps, errors = working(steps)
    times = medians(working_steps, device, rounds_of_map(args.rounds, height * width, device))
    results: list[dict] = []
    common = {"map": map_size, "amp": args.amp}
    for name, error in errors.items():
        print(f"  {name:{column}} {error}")
        results.append({**common, "variant": name, "error": error})
    for name, seconds in times.items():
        ratio = seconds / times[reference]
        print(f"  {name:{column}} {seconds * 1e3:9.2f} ms {ratio:6.2f} x {reference}")
        results.append(
            {**common, "batch_size": args.batch_size, "variant": name,
             "milliseconds": round(seconds * 1e3, 3), ratio_name: round(ratio, 3)}
        )  # fmt: skip
    return results
