"""Runs of main.py: how they are started and stopped, and what they have written."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

from tests.helpers import forks
from tests.helpers.commands import MAIN, QUIET, ROOT, TINY_RUN, free_port
from util.checkpoint import load_checkpoint

# Dropout and augmentation, so that random states matter; a learning rate that drops.
RUN = [
    *TINY_RUN, "--epochs", "3", "--lr_drop", "2", "--batch_size", "2", "--lr", "1e-3",
    "--lr_backbone", "1e-3", "--checkpoint_every", "0.0001", "--dropout", "0.1",
]  # fmt: skip


def command(data: Path, out: Path, processes: int, *options: str) -> list[str]:
    launcher = []
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}",
                    f"--master_port={free_port()}"]  # fmt: skip
    return [*launcher, MAIN, *RUN, "--coco_path", str(data), "--output_dir", str(out), *options]


def start(*options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *options], cwd=ROOT, env={**os.environ, **QUIET}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=forks.default_signals,
    )  # fmt: skip


def signal_all(process: subprocess.Popen, name: str) -> None:
    forks.signal_all(process.pid, signal.Signals[name])


def wait_for(process: subprocess.Popen, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} never came: {process.stderr.read()}")


def result_of(out: Path) -> tuple[dict, list[dict]]:
    """Read checkpoint and log of a finished run; the log must have each epoch once."""
    checkpoint = load_checkpoint(str(out / "checkpoint.pth"))
    log = [json.loads(line) for line in (out / "log.txt").read_text().splitlines()]
    assert [row["epoch"] for row in log] == list(range(checkpoint["args"].epochs))
    return checkpoint, log


def assert_same_run(out: Path, wanted: Path) -> None:
    (left, left_log), (right, right_log) = result_of(out), result_of(wanted)
    for weights in {"model", "ema", "model_ema"} & right.keys():
        for name, value in right[weights].items():
            assert torch.equal(left[weights][name], value), (weights, name)
    for number, state in right["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(left["optimizer"]["state"][number][name], value), (number, name)
    assert left["lr_scheduler"] == right["lr_scheduler"]
    for row, wanted_row in zip(left_log, right_log, strict=True):
        differ = {n: (row.get(n), v) for n, v in wanted_row.items() if row.get(n) != v}
        assert not differ and row.keys() == wanted_row.keys(), differ


def read_log(out):
    """Return the rows of a run's log.txt."""
    return [json.loads(line) for line in (out / "log.txt").read_text().splitlines()]


def table(stdout):
    """Return the 12 numbers of the last COCO table that a run has printed."""
    lines = [line for line in stdout.splitlines() if "Average" in line]
    return [float(line.rsplit("=", 1)[1]) for line in lines[-12:]]


def classes(stdout):
    """Return the words of each row of the last table of classes, by class name."""
    rows = stdout.rpartition("Classes, IoU metric: bbox\n")[2].splitlines()[1:6]
    return {name: words for name, *words in map(str.split, rows)}
