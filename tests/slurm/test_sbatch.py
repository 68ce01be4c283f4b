"""Training in a real Slurm without submitit: with srun alone, and with tools/train.sbatch."""

import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import MAIN, ROOT
from tests.slurm.launched import PER_NODE, PROCESSES, check_same_end, preempt
from tests.slurm.slurm_cluster import SlurmCluster, needs_slurm, wait_for

pytestmark = needs_slurm


def test_srun_alone(cluster, training, undisturbed, tmp_path):
    """Neither torchrun nor submitit: the tasks of srun find each other."""
    shown = cluster.call(
        "srun", "--nodes=2", f"--ntasks-per-node={PER_NODE}", "--mem=1500M", "--time=10",
        "--kill-on-bad-exit=1", "--export=ALL,OMP_NUM_THREADS=1", f"--chdir={ROOT}",
        sys.executable, MAIN, *training,
        "--output_dir", tmp_path, within=240,
    )  # fmt: skip
    assert f"{PROCESSES} processes over gloo" in shown
    check_same_end(tmp_path, undisturbed)


def train_with_sbatch(cluster: SlurmCluster, log: Path, *options: str) -> str:
    """Submit a job and wait for its first epoch; returns its number."""
    job = cluster.call(
        "sbatch", "--parsable", f"--chdir={ROOT}", f"--output={log}", "--nodes=2",
        "--gpus-per-node=0", "--cpus-per-task=2", "--mem=1500M", "--time=60",
        f"--export=ALL,PROCESSES_PER_NODE={PER_NODE},PYTHON={sys.executable}",
        ROOT / "tools" / "train.sbatch", *options,
    )  # fmt: skip

    def look() -> bool:
        text = log.read_text() if log.is_file() else ""
        assert cluster.state(job) in ("PENDING", "RUNNING"), text
        return "\nepoch 1/" in text

    wait_for("epoch 1", look, 120, every=0.2)
    return job


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(
            lambda cluster, job: cluster.call("scancel", "--batch", "--signal=USR2", job),
            id="time limit", marks=pytest.mark.nightly,
        ),
        pytest.param(
            lambda cluster, job: cluster.call("scancel", "--signal=USR2", job),
            id="signal of a user",
        ),
        pytest.param(
            lambda cluster, job: preempt(cluster), id="preemption", marks=pytest.mark.nightly
        ),
    ],
)  # fmt: skip
def test_sbatch(cluster, training, undisturbed, tmp_path, stop):
    out, log = tmp_path / "out", tmp_path / "log.txt"
    job = train_with_sbatch(cluster, log, *training, "--output_dir", str(out))
    stop(cluster, job)
    assert cluster.wait_until_over(job) == "COMPLETED", log.read_text()
    assert cluster.restarts(job) == 1
    assert f"{PROCESSES} processes over gloo" in log.read_text()
    check_same_end(out, undisturbed)


def test_a_crash_under_sbatch(cluster, training, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log.txt"
    job = train_with_sbatch(cluster, log, *training, "--output_dir", str(out))
    os.kill(worker_of(job, rank=PROCESSES - 1), signal.SIGKILL)
    assert cluster.wait_until_over(job, 60) == "FAILED", log.read_text()
    assert cluster.restarts(job) == 0
    assert cluster.facts(job)["ExitCode"] != "0:0"


def worker_of(job: str, rank: int) -> int:
    """Return the process id of torchrun's worker of this rank."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "environ").read_bytes().split(b"\0")
            if f"SLURM_JOB_ID={job}".encode() in words and f"RANK={rank}".encode() in words:
                return int(folder.name)
    raise AssertionError(f"job {job} has no process of rank {rank}")
