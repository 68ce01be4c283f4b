"""Jobs in a real Slurm of two nodes; each stop ends in the same weights.

Each node runs one process; SLURM_TASKS_PER_NODE=2 (make nightly) runs two.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import MAIN, QUIET, ROOT, TINY_RUN, error_line, make_shapes
from slurm_cluster import SlurmCluster, missing_programs, running_cluster, wait_for

from slurm.follow import JobFollower
from slurm.status import job_status

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing_programs()), reason=f"no {', '.join(missing_programs())}"),
]

EPOCHS = 4
PER_NODE = int(os.environ.get("SLURM_TASKS_PER_NODE", "1"))
PROCESSES = 2 * PER_NODE
TASKS = ["--nodes", "2", "--ngpus", "0", "--tasks_per_node", str(PER_NODE), "--cpus_per_task", "1"]
JOB = [
    *TASKS, "--mem_gb", "1.5", "--timeout", "60", "--partition", "debug", "--comment", "tests",
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[SlurmCluster]:
    with running_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running:
        yield running
    for process in followers:  # of tests that failed
        process.kill()


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> list[str]:
    """Options of main.py: 4 epochs of 12 steps."""
    images = str(12 * PROCESSES)
    data = make_shapes(
        tmp_path_factory.mktemp("data") / "shapes", "--train", images, "--val", "4", "--size", "80"
    )
    return [
        *TINY_RUN, "--coco_path", str(data), "--batch_size", "1", "--epochs", str(EPOCHS),
        "--eval_every", "2",
    ]  # fmt: skip


followers: list[subprocess.Popen] = []


class Launched:
    """run_with_submitit.py --follow, running, and the job that it follows."""

    def __init__(self, cluster: SlurmCluster, folder: Path, *options: str):
        self.cluster = cluster
        self.shown = folder / "shown.txt"
        self.errors = folder / "errors.txt"
        with self.shown.open("w") as out, self.errors.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / "run_with_submitit.py", "--follow",
                 "--job_dir", folder / "jobs" / "%j", *options],
                cwd=ROOT, env={**os.environ, **QUIET, **cluster.env}, stdout=out, stderr=err,
            )  # fmt: skip
        followers.append(self.process)
        self.job = str(wait_for("submission", self._submitted, 60))
        self.folder = folder / "jobs" / self.job

    def _submitted(self) -> str | None:
        assert self.process.poll() is None, self.errors.read_text()
        found = re.search(r"Submitted job (\d+)", self.shown.read_text())
        return found and found[1]

    def log(self, task: int = 0) -> Path:
        return self.folder / f"{self.job}_{task}_log.out"

    def wait_for_epoch(self, epoch: int = 0) -> None:
        """Until this epoch is done, and the job goes on with the next."""
        wait_for(
            f"epoch {epoch} of job {self.job}",
            lambda: self.log().is_file() and f"Epoch {epoch}" in self.log().read_text(),
            120,
        )

    def processes(self) -> dict[int, int]:
        """Process ids of the tasks that run, by rank."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if b"submitit.core._submit" not in (folder / "cmdline").read_bytes():
                    continue
                words = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                env = dict(word.split("=", 1) for word in words if "=" in word)
                if env.get("SLURM_JOB_ID") == self.job and env.get("SLURM_PROCID"):
                    found[int(env["SLURM_PROCID"])] = int(folder.name)
        return found

    def end(self) -> str:
        """Wait for the launcher; what it has shown."""
        self.process.wait(240)
        return self.shown.read_text()

    def error(self) -> str:
        """The launcher's one line of a job that went wrong."""
        self.end()
        assert self.process.returncode == 1
        (line,) = self.errors.read_text().splitlines()
        return line


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pth", weights_only=False)["model"]


def epochs_of(folder: Path) -> list[int]:
    found = re.findall(r'"epoch": (\d+)', (folder / "log.txt").read_text())
    return [int(number) for number in found]


def check_same_end(folder: Path, undisturbed: Launched) -> None:
    """The same weights, bit for bit, and no epoch left out or told twice."""
    assert epochs_of(folder) == list(range(EPOCHS))
    expected, found = weights(undisturbed.folder), weights(folder)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def check_requeued(launched: Launched, undisturbed: Launched) -> None:
    """The job was queued again, which its follower told, and has done all that there was to do."""
    shown = launched.end()
    assert launched.process.returncode == 0, launched.errors.read_text() + shown
    assert launched.cluster.state(launched.job) == "COMPLETED"
    # A slow machine may reach a time limit of a minute more than once.
    assert launched.cluster.restarts(launched.job) >= 1, shown
    told = re.findall(rf"^-- job {launched.job}: (.*)$", shown, flags=re.MULTILINE)
    assert "requeued (restart 1)" in told
    after = told[told.index("requeued (restart 1)") :]
    assert any(line.startswith("running on 127.0.0.") for line in after), told
    assert f"Epoch {EPOCHS - 1}" in shown
    check_same_end(launched.folder, undisturbed)


@pytest.fixture(scope="module")
def both(cluster, training, tmp_path_factory) -> tuple[Launched, Launched]:
    """A job that is left alone, and beside it one that reaches its time limit of a minute."""
    limited = Launched(
        cluster, tmp_path_factory.mktemp("limited"), *training, *JOB, "--timeout", "1"
    )
    undisturbed = Launched(cluster, tmp_path_factory.mktemp("undisturbed"), *training, *JOB)
    limited.wait_for_epoch(0)
    # Held, so that it is not done before the limit is near; Slurm wakes whom it gives a signal.
    for process in limited.processes().values():
        os.kill(process, signal.SIGSTOP)
    return undisturbed, limited


@pytest.fixture(scope="module")
def undisturbed(both) -> Launched:
    launched = both[0]
    launched.end()
    return launched


def test_a_job_left_alone(undisturbed):
    shown = undisturbed.shown.read_text()
    assert undisturbed.process.returncode == 0, undisturbed.errors.read_text() + shown
    assert undisturbed.cluster.state(undisturbed.job) == "COMPLETED"
    assert undisturbed.cluster.restarts(undisturbed.job) == 0
    facts = undisturbed.cluster.facts(undisturbed.job)
    assert (facts["Comment"], facts["Partition"], facts["NumCPUs"]) == (
        "tests",
        "debug",
        str(PROCESSES),
    )
    assert facts["MinMemoryNode"] == "1.50G"
    assert f"{PROCESSES} processes over gloo" in shown
    assert f"-- job {undisturbed.job}: running on 127.0.0.[1-2]" in shown
    assert [f"Epoch {n}" in shown for n in range(EPOCHS)] == [True] * EPOCHS
    assert epochs_of(undisturbed.folder) == list(range(EPOCHS))


def test_the_time_limit_of_a_job(both):
    undisturbed, limited = both
    undisturbed.end()
    check_requeued(limited, undisturbed)


@pytest.mark.nightly
def test_a_signal_of_a_user(cluster, training, undisturbed, tmp_path):
    launched = Launched(cluster, tmp_path, *training, *JOB)
    launched.wait_for_epoch(0)
    cluster.call("scancel", "--signal=USR2", launched.job)
    check_requeued(launched, undisturbed)


def preempt(cluster: SlurmCluster) -> None:
    """A short job of the partition that takes what it needs has been run."""
    urgent = cluster.call(
        "sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive",
        "--output=/dev/null", "--wrap=sleep 1",
    )  # fmt: skip
    assert cluster.wait_until_over(urgent, 90) == "COMPLETED"


def test_preemption(cluster, training, undisturbed, tmp_path):
    launched = Launched(cluster, tmp_path, *training, *JOB)
    launched.wait_for_epoch(0)
    preempt(cluster)
    check_requeued(launched, undisturbed)


@pytest.mark.nightly
def test_preemption_by_sigterm(training, undisturbed, tmp_path):
    """Slurm's default: jobs are not sent the signal that they asked for."""
    with running_cluster(tmp_path / "cluster", user_signal=False) as cluster:
        launched = Launched(cluster, tmp_path, *training, *JOB)
        launched.wait_for_epoch(0)
        preempt(cluster)
        check_requeued(launched, undisturbed)


def test_a_killed_task_ends_the_job(cluster, training, tmp_path):
    launched = Launched(cluster, tmp_path, *training, *JOB)
    launched.wait_for_epoch(0)
    start = time.monotonic()
    other_node = PROCESSES // 2
    os.kill(launched.processes()[other_node], signal.SIGKILL)
    line = launched.error()
    assert time.monotonic() - start < 60
    assert f"job {launched.job} ended as FAILED (task {other_node}: Killed)" in line
    assert line.endswith(f"its log: {launched.folder}/{launched.job}_{other_node}_log.err")
    assert cluster.restarts(launched.job) == 0


def test_an_error_of_one_task_ends_the_job(cluster, tmp_path):
    """An image that only one process reads is broken; its log says so."""
    data = make_shapes(tmp_path / "shapes", "--train", "64", "--val", "4", "--size", "80")
    image = sorted((data / "train2017").iterdir())[0]
    image.write_bytes(image.read_bytes()[:100])
    launched = Launched(
        cluster, tmp_path, *TINY_RUN, "--coco_path", str(data), "--batch_size", "1", *JOB
    )
    line = launched.error()
    assert f"job {launched.job} ended as FAILED (task " in line
    assert cluster.state(launched.job) == "FAILED"
    assert image.name in Path(line.rpartition("its log: ")[2]).read_text()


def test_a_cancelled_job_is_not_queued_again(cluster, training, tmp_path):
    launched = Launched(cluster, tmp_path, *training, *JOB)
    launched.wait_for_epoch(0)
    cluster.call("scancel", launched.job)
    assert "ended as CANCELLED" in launched.error()
    time.sleep(2)
    assert cluster.state(launched.job) == "CANCELLED"
    assert cluster.restarts(launched.job) == 0
    assert not launched.processes()
    assert (launched.folder / "checkpoint.pth").is_file()


def test_a_follower_that_is_interrupted_leaves_the_job_alone(cluster, training, tmp_path):
    launched = Launched(cluster, tmp_path, *training, *JOB, "--epochs", "1000")
    launched.wait_for_epoch(0)
    launched.process.send_signal(signal.SIGINT)
    shown = launched.end()
    assert launched.process.returncode == 130
    assert launched.errors.read_text() == ""
    assert f"job {launched.job} continues" in shown
    assert cluster.state(launched.job) == "RUNNING"
    cluster.call("scancel", launched.job)
    cluster.wait_until_over(launched.job)


def test_a_job_that_slurm_refuses(cluster, training, tmp_path):
    line = error_line(
        "run_with_submitit.py", *training, *JOB, "--partition", "nowhere",
        "--job_dir", tmp_path / "%j", env=cluster.env,
    )  # fmt: skip
    assert "Slurm refuses the job" in line and "partition" in line


def test_slurm_does_not_know_a_job(cluster, monkeypatch):
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    assert job_status("999999") is None
    assert JobFollower("999999", []).follow() == "UNKNOWN"


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
    """The number of a job that has done its first epoch."""
    job = cluster.call(
        "sbatch", "--parsable", f"--chdir={ROOT}", f"--output={log}", "--nodes=2",
        "--gpus-per-node=0", "--cpus-per-task=2", "--mem=1500M", "--time=60",
        f"--export=ALL,PROCESSES_PER_NODE={PER_NODE},PYTHON={sys.executable}",
        ROOT / "tools" / "train.sbatch", *options,
    )  # fmt: skip

    def look() -> bool:
        text = log.read_text() if log.is_file() else ""
        assert cluster.state(job) in ("PENDING", "RUNNING"), text
        return "Epoch 0" in text

    wait_for("epoch 0", look, 120, every=0.2)
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
    """Process id of a worker of torchrun."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "environ").read_bytes().split(b"\0")
            if f"SLURM_JOB_ID={job}".encode() in words and f"RANK={rank}".encode() in words:
                return int(folder.name)
    raise AssertionError(f"job {job} has no process of rank {rank}")
