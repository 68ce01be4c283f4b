"""Run the benchmarks, but for classifier.py and instructions/, one after the other.

    python benchmarks/run.py [--device cuda] [--quick] [--json FILE] [--coco_path DIR]

On a GPU, `--device cuda --quick` is the first thing to run: it takes at most 8 minutes, checks the
kernels, measures, and leaves all of it in one file, gpu.json. What fails or takes too long is
recorded there, too, and the exit code is 1 then.

Every ratio is of variants that took turns in one run. Let nothing else run meanwhile.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
QUICK_GPU_MINUTES = 8
KEPT_LINES = 60  # of what a failed benchmark printed
MACHINE = "import torch, measure; measure.show(measure.machine(torch.device('{}')))"
# What each takes of a limited time, against the others: a rough guess of its seconds.
SHARES = {
    "machine": 30, "rpe_ops --check": 130, "attention": 40,
    "attention_bf16": 40, "training_step": 90, "encoder_layer": 25, "encoder_layer_bf16": 25,
    "decoder_layer": 25,
    "rpe_ops": 30, "matching": 20, "masks": 40, "detector": 150,
}  # fmt: skip
OTHER_SHARE = 60


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--minutes", type=float,
                        help="end within this time: each benchmark gets a share of what is left, "
                        f"and is ended after it; default: {QUICK_GPU_MINUTES} with --quick on a "
                        "GPU, else no limit")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="where to write all results; a folder gets a file for each benchmark; "
                        "default: gpu.json for a GPU, for the CPU print only")
    parser.add_argument("--coco_path", default=os.environ.get("COCO_PATH"),
                        help="COCO images for the speed of loaders; left out without")
    # fmt: on
    return parser


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return script and options of each benchmark, by the name of its result file."""
    device = ["--device", args.device]
    on_gpu = args.device != "cpu"
    quick = ["--rounds", "3"] if args.quick else []
    small = ["--maps", "25x34", "25x42"] if args.quick else []
    alone = []
    if args.quick and on_gpu:
        # 1050 and 4200 tokens; what has to be compiled takes the most time.
        small = ["--maps", "25x42", "50x84"]
        alone = ["--batch_size", "2", "--leave_out", "flex"]
    step = {"training_step": ["training_step.py", *device, *quick]} if on_gpu else {}
    found = {
        "attention_bf16": ["attention.py", *device, "--dtype", "bfloat16", *quick, *small, *alone],
        "attention": ["attention.py", *device, *quick, *small, *alone],
        **step,
        "encoder_layer_bf16": ["encoder_layer.py", *device, "--amp", "bf16", *quick, *small],
        "rpe_ops": ["rpe_ops.py", *device, *quick, *small],
        "matching": ["matching.py", *device, *quick],
        "encoder_layer": ["encoder_layer.py", *device, *quick, *small],
        "decoder_layer": ["decoder_layer.py", *device, *quick, *small],
        "masks": ["masks.py", *device, *quick],
        "detector": ["whole_detector.py", *device, *(["--quick"] if args.quick else [])],
    }
    if not on_gpu:
        found["help_time"] = ["commands/help_time.py", *quick]
        found["scoring"] = ["scoring.py", *(["--images", "1000"] if args.quick else [])]
        found["loader_memory"] = [
            "loader_memory.py", *(["--images", "12000"] if args.quick else [])
        ]  # fmt: skip
        if args.coco_path:
            found["loader_speed"] = ["loader_speed.py", "--coco_path", args.coco_path]
    return found


def checks(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the commands that come before all benchmarks, as arguments of Python."""
    return {
        "machine": ["-c", MACHINE.format(args.device)],
        "rpe_ops --check": ["-m", "rpe_ops", "--check"],
    }


class TimeLimit:
    """Shares out a number of minutes; None for no limit."""

    def __init__(self, minutes: float | None, names: list[str]):
        self.end = None if minutes is None else time.monotonic() + 60 * minutes
        self.shares = {name: SHARES.get(name, OTHER_SHARE) for name in names}

    def next(self, name: str) -> float | None:
        """Return the seconds for `name`, whose turn it is; what it leaves goes to the others."""
        if self.end is None:
            return None
        left = max(self.end - time.monotonic(), 0)
        return left * self.shares[name] / sum(self.shares.values())

    def is_over(self, name: str) -> None:
        del self.shares[name]


def run(command: list[str], limit: float | None) -> tuple[list[str], str]:
    """Run Python with these arguments, and show what it prints.

    Args:
        limit: seconds after which it is ended, with all processes that it started.

    Returns:
        The lines, and why it failed; empty if it did not.
    """
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-u", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True, cwd=HERE.parent,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    lines: list[str] = []

    def show() -> None:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))

    reader = threading.Thread(target=show, daemon=True)
    reader.start()
    try:
        code = process.wait(limit)
        error = f"ended with exit code {code}" if code else ""
    except subprocess.TimeoutExpired:
        error = f"took longer than its {limit:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):  # none is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    reader.join(10)
    return lines, error


def main(args: argparse.Namespace) -> int:
    """Run checks and benchmarks; return the exit code."""
    on_gpu = args.device != "cpu"
    if args.json is None and on_gpu:
        args.json = Path("gpu.json")
    if args.minutes is None and args.quick and on_gpu:
        args.minutes = QUICK_GPU_MINUTES
    begin = time.monotonic()
    first, then = checks(args), commands(args)
    limit = TimeLimit(args.minutes, [*first, *then])
    report: dict = {"checks": {}}
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        one_file = args.json is not None and args.json.suffix == ".json"
        folder = Path(scratch) if one_file else args.json
        for number, name in enumerate([*first, *then], 1):
            seconds = limit.next(name)
            said = f", at most {seconds:.0f} s" if seconds is not None else ""
            spent = (time.monotonic() - begin) / 60
            print(f"\n==== {number}/{len(first) + len(then)} {name}{said} "
                  f"({spent:.1f} minutes so far) ====", flush=True)  # fmt: skip
            path = None
            if name in first:
                command = first[name]
            else:
                script, *options = then[name]
                command = [str(HERE / script), *options]
                if folder is not None:
                    path = (folder / f"{name}_{args.device.replace(':', '_')}.json").resolve()
                    command += ["--json", str(path)]
            lines, error = run(command, seconds)
            limit.is_over(name)
            if error:
                failed.append(name)
                print(f"{name} {error}", flush=True)
            if name in first:
                report["checks"][name] = {"lines": lines, **({"error": error} if error else {})}
            else:
                report[name] = result_of(path, lines, error)
            write(report, args)
    print(f"\nafter {(time.monotonic() - begin) / 60:.1f} minutes", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    if one_file:
        print(f"all of it is in {args.json}")
    return 1 if failed else 0


def result_of(path: Path | None, lines: list[str], error: str) -> dict:
    """Return a benchmark's result file, with the error and the last lines if it failed."""
    found: dict = {}
    if path is not None and path.exists():
        with contextlib.suppress(ValueError):  # it was ended while it wrote
            found = json.loads(path.read_text())
    return {**found, "error": error, "output": lines[-KEPT_LINES:]} if error else found


def write(report: dict, args: argparse.Namespace) -> None:
    """Write what there is so far: an end from outside loses nothing. A folder gets the failures."""
    if args.json is None:
        return
    path = args.json
    if path.suffix != ".json":
        path = path / f"run_{args.device.replace(':', '_')}.json"
        failures = {name: part for name, part in report.items() if "error" in part}
        report = {"checks": report["checks"], **failures}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(get_args_parser().parse_args()))
