"""Evaluation and training steps of the detector, against the way the published code runs it.

    python benchmarks/detector.py [--device cuda] [--json FILE]

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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from measure import machine, show, write_json

PROCESS = Path(__file__).resolve().parent / "detector_process.py"
SIZE = (800, 1066)


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

    def run(self, rounds: int) -> dict:
        print(json.dumps({"rounds": rounds}), file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{' '.join(self.process.args)} ended with {self.process.wait()}")


def compare(options: list[str], baseline: list[str], variant: list[str], rounds: int) -> dict:
    """Median seconds a step of both, which take turns, and the memory they needed at most."""
    processes = [Variant(*options, *baseline), Variant(*options, *variant)]
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds):
        for process, values in zip(processes, seconds, strict=True):
            answer = process.run(1)
            values.extend(answer["seconds"])
            process.peak_mb = answer["peak_mb"]
    medians = [statistics.median(values) for values in seconds]
    result = {
        "baseline_seconds": round(medians[0], 4),
        "seconds": round(medians[1], 4),
        "times_faster": round(medians[0] / medians[1], 3),
        "baseline_peak_mb": processes[0].peak_mb,
        "peak_mb": processes[1].peak_mb,
    }
    for process in processes:
        process.close()
    return result


def cases(device: str) -> list[tuple[str, list[str], list[str]]]:
    """What is compared: name, options of the baseline, options of the variant."""
    if device != "cpu":
        return [(f"amp {amp}", ["--baseline"], ["--amp", amp]) for amp in ("off", "bf16", "fp16")]
    keep = ["--keep_memory"]
    return [
        ("as users run both, float32", ["--baseline"], keep),
        ("as users run both, bf16", ["--baseline"], [*keep, "--amp", "bf16"]),
        ("memory kept by both, float32", ["--baseline", *keep], keep),
        ("memory kept by both, bf16", ["--baseline", *keep], [*keep, "--amp", "bf16"]),
        ("memory released by both, float32", ["--baseline"], []),
    ]


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--batch_size", type=int, help="default: 2 on the CPU, else 8")
    parser.add_argument("--rounds", default=5, type=int, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


def main(args: argparse.Namespace) -> None:
    facts = machine(torch.device(args.device))
    batch_size = args.batch_size or (2 if args.device == "cpu" else 8)
    facts["batch"] = f"{batch_size} images of {SIZE[0]} x {SIZE[1]}"
    show(facts)
    results = []
    for task in ("eval", "train"):
        print(f"\n{task}", flush=True)
        options = ["--task", task, "--device", args.device, "--batch_size", str(batch_size)]
        options += ["--size", *map(str, SIZE)]
        for name, baseline, variant in cases(args.device):
            found = compare(options, baseline, variant, args.rounds)
            print(
                f"  {name:34} {found['baseline_seconds']:8.3f} s -> {found['seconds']:8.3f} s  "
                f"{found['times_faster']:5.2f} x faster  "
                f"peak {found['baseline_peak_mb']} -> {found['peak_mb']} MB",
                flush=True,
            )
            results.append({"task": task, "case": name, **found})
    write_json(args.json, facts, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
