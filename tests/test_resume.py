"""A run that was stopped and resumed is the run that was never stopped, to the bit."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import MAIN, QUIET, ROOT, TINY_RUN, free_port, make_shapes, run_ok

from util.checkpoint import load_checkpoint
from util.stopping import EXIT_STOPPED

# Dropout and augmentation, so that random states matter; a learning rate that drops.
RUN = [
    *TINY_RUN, "--epochs", "3", "--lr_drop", "2", "--batch_size", "2", "--lr", "1e-3",
    "--lr_backbone", "1e-3", "--checkpoint_every", "0.0001", "--dropout", "0.1",
]  # fmt: skip
STEPS = 8  # of an epoch, with one process


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "shapes"
    return make_shapes(out, "--train", "16", "--val", "3", "--size", "64", "--aspect", "1.5")


def command(data: Path, out: Path, processes: int, *options: str) -> list[str]:
    launcher = []
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}",
                    f"--master_port={free_port()}"]  # fmt: skip
    return [*launcher, MAIN, *RUN, "--coco_path", str(data), "--output_dir", str(out), *options]


def start(*options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *options], cwd=ROOT, env={**os.environ, **QUIET}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def signal_all(process: subprocess.Popen, name: str) -> None:
    """Signal a process and all that come from it, as Slurm does (torchrun's have own groups)."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            )
    found = [process.pid]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.Signals[name])


def wait_for(process: subprocess.Popen, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} never came: {process.stderr.read()}")


def result_of(out: Path) -> tuple[dict, list[dict]]:
    """Weights, optimizer and log of a finished run."""
    checkpoint = load_checkpoint(str(out / "checkpoint.pth"))
    log = [json.loads(line) for line in (out / "log.txt").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [0, 1, 2]
    return checkpoint, log


def assert_same_run(out: Path, wanted: Path) -> None:
    (left, left_log), (right, right_log) = result_of(out), result_of(wanted)
    for name, value in right["model"].items():
        assert torch.equal(left["model"][name], value), name
    for number, state in right["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(left["optimizer"]["state"][number][name], value), (number, name)
    assert left["lr_scheduler"] == right["lr_scheduler"]
    assert left_log == right_log


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """undisturbed(processes): the folder of a run that was left alone."""
    done = {}

    def of(processes: int) -> Path:
        if processes not in done:
            done[processes] = tmp_path_factory.mktemp("undisturbed")
            run_ok(*command(data, done[processes], processes))
        return done[processes]

    return of


@pytest.mark.parametrize("workers", [0, 4])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stop", ["SIGTERM", "SIGINT", "SIGUSR2", "SIGKILL"])
def test_a_stopped_run_goes_on_to_the_bit(data, undisturbed, tmp_path, stop, processes, workers):
    """Stopped in the middle of the second epoch; signals go to the loader workers, too."""
    options = command(data, tmp_path, processes, "--num_workers", str(workers))
    process = start(*options)
    wait_for(process, "saved after step 2 of epoch 1")
    signal_all(process, stop)
    _, said = process.communicate(timeout=60)
    if stop != "SIGKILL":
        assert said.count(f"stopped by {stop}; --resume auto goes on") == 1, said
        if processes == 1:  # torchrun has its own way to say that it got a signal
            assert process.returncode == EXIT_STOPPED and "Traceback" not in said, said
    step = load_checkpoint(str(tmp_path / "checkpoint.pth"))["step"]
    assert 2 <= step <= STEPS // processes
    resumed = run_ok(*options, "--resume", "auto")
    assert f"resuming {tmp_path / 'checkpoint.pth'}" in resumed.stdout
    assert_same_run(tmp_path, undisturbed(processes))
