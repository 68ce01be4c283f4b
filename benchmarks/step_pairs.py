"""Evaluation and training steps of the detector, against the way the published code runs it."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

STEPS = Path(__file__).resolve().parent / "steps.py"


class Variant:
    """A process that runs steps of one variant on request (see steps.py)."""

    def __init__(self, *options: str):
        self.process = subprocess.Popen(
            [sys.executable, str(STEPS), *options],
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


def measure(device: str, quick: bool) -> list[dict]:
    rounds = 2 if quick else 5
    batch_size, size = (2, (800, 1066)) if device == "cpu" else (8, (800, 1066))
    results = []
    for task in ("eval", "train"):
        print(f"\n{task}, batch of {batch_size}, {size[0]} x {size[1]} pixels", flush=True)
        options = ["--task", task, "--device", device, "--batch_size", str(batch_size)]
        options += ["--size", *map(str, size)]
        for name, baseline, variant in cases(device):
            found = compare(options, baseline, variant, rounds)
            print(
                f"  {name:34} {found['baseline_seconds']:8.3f} s -> {found['seconds']:8.3f} s  "
                f"{found['times_faster']:5.2f} x  peak {found['baseline_peak_mb']} -> "
                f"{found['peak_mb']} MB",
                flush=True,
            )
            results.append({"section": "steps", "task": task, "case": name, **found})
    return results
