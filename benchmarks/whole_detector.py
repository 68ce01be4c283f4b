"""Measure evaluation and training steps of the detector against the published way.

    python benchmarks/whole_detector.py [--device cuda] [--json FILE]

A ResNet-50 DETR with rpe-2.0-product-ctx-1-k and random weights, on a batch of random images of
800 x 1066 pixels. Each comparison runs two processes (see detector_process.py), which take turns.
"As users run both": the published way gives freed memory back, as is the system's default.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from measure import machine, show, write_json

PROCESS = Path(__file__).resolve().parent / "detector_process.py"
SIZE = (800, 1066)
DILATED_SIZE = (800, 1333)  # a map of 50 x 84


class Variant:
    """A process that runs steps of one variant on request (see detector_process.py)."""

    def __init__(self, *options: str):
        self.process = subprocess.Popen(
            [sys.executable, str(PROCESS), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def ask(self, **request) -> dict:
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{' '.join(self.process.args)} ended with {self.process.wait()}")


class Case(NamedTuple):
    """A comparison: options of detector_process.py for both, and for each of the two variants."""

    name: str
    options: list[str]
    baseline: list[str] | None  # None where the published way needs too much memory
    variant: list[str]


def compare(case: Case, rounds: int, batch_size: int, size: tuple[int, int]) -> dict:
    """Return the median seconds of a step of both, which take turns, and their peak memory."""
    options = ["--batch_size", str(batch_size), "--size", *map(str, size), *case.options]
    ways = {"baseline_": case.baseline, "": case.variant}
    processes = {prefix: Variant(*options, *way) for prefix, way in ways.items() if way is not None}
    seconds: dict[str, list[float]] = {prefix: [] for prefix in processes}
    result: dict = {}
    for _ in range(rounds):
        for prefix, process in processes.items():
            answer = process.ask(rounds=1)
            seconds[prefix] += answer["seconds"]
            result[f"{prefix}peak_mb"] = answer["peak_mb"]
    for prefix, values in seconds.items():
        median = statistics.median(values)
        result[f"{prefix}seconds"] = round(median, 4)
        result[f"{prefix}images_per_second"] = round(batch_size / median, 3)
    if case.baseline is not None:
        result["times_faster"] = round(result["baseline_seconds"] / result["seconds"], 3)
    result["profile"] = processes[""].ask(profile=10)["profile"]
    for process in processes.values():
        process.close()
    return result


def cases(device: str, task: str) -> list[Case]:
    """Return the comparisons with the published way."""
    options = ["--task", task, "--device", device]
    if device != "cpu":
        ways = {f"amp {amp}": ["--amp", amp] for amp in ("off", "bf16", "fp16")}
        ways["amp bf16, --compile"] = ["--amp", "bf16", "--compile"]
        return [Case(name, options, ["--baseline"], way) for name, way in ways.items()]
    keep = ["--keep_memory"]
    bf16 = [*keep, "--amp", "bf16"]
    found = [
        Case("as users run both, float32", options, ["--baseline"], keep),
        Case("as users run both, bf16", options, ["--baseline"], bf16),
        Case("memory kept by both, float32", options, ["--baseline", *keep], keep),
        Case("memory kept by both, bf16", options, ["--baseline", *keep], bf16),
        Case("memory released by both, float32", options, ["--baseline"], []),
    ]
    if task == "train":
        found.append(
            Case(
                "kept by both, bf16, --compile",
                options,
                ["--baseline", *keep],
                [*bf16, "--compile"],
            )
        )
    return found


def dilated(device: str) -> list[Case]:
    """Return comparisons in training a dilated backbone, whose map has four times the tokens."""
    checkpointing = "--model_options=--dilation --gradient_checkpointing"
    options = ["--task", "train", "--device", device, checkpointing]
    keep = ["--keep_memory"] if device == "cpu" else []
    return [
        Case(f"DC5, one image, {amp}", options, None, [*keep, "--amp", amp])
        for amp in ("off", "bf16")
    ]


def say(result: dict) -> None:
    line = f"  {result['case']:34} {result['seconds']:8.3f} s  peak {result['peak_mb']} MB"
    if "times_faster" in result:
        line += (
            f"  {result['times_faster']:5.2f} x faster than the published "
            f"{result['baseline_seconds']:.3f} s, peak {result['baseline_peak_mb']} MB"
        )
    print(line, flush=True)


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--batch_size", type=int, help="default: 2 on the CPU, else 8")
    parser.add_argument("--rounds", default=5, type=int, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="two rounds, no fp16, no --compile")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


def main(args: argparse.Namespace) -> None:
    facts = machine(torch.device(args.device))
    rounds = 2 if args.quick else args.rounds
    batch_size = args.batch_size or (2 if args.device == "cpu" else 8)
    facts["batch"] = f"{batch_size} images of {SIZE[0]} x {SIZE[1]}"
    show(facts)
    results = []
    for task in ("eval", "train"):
        print(f"\n{task}", flush=True)
        for case in cases(args.device, task):
            if args.quick and ("fp16" in case.name or "--compile" in case.name):
                continue
            found = compare(case, rounds, batch_size, SIZE)
            results.append({"task": task, "case": case.name, **found})
            say(results[-1])
            write_json(args.json, facts, results, done=False)
    print(f"\ntrain, a dilated backbone, one image of {DILATED_SIZE[0]} x {DILATED_SIZE[1]}")
    for case in dilated(args.device):
        found = compare(case, rounds, 1, DILATED_SIZE)
        results.append({"task": "train", "case": case.name, **found})
        say(results[-1])
        write_json(args.json, facts, results, done=False)
    write_json(args.json, facts, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
