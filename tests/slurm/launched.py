"""Start jobs with the commands that submit them, and check what they have written."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from tests.helpers.commands import QUIET, ROOT
from tests.slurm.slurm_cluster import SlurmCluster, wait_for

DETECTOR, CLASSIFIER = "run_with_submitit.py", "classification/run_with_submitit.py"
EPOCHS = 4
PER_NODE = int(os.environ.get("SLURM_TASKS_PER_NODE", "1"))
PROCESSES = 2 * PER_NODE
TASKS = ["--nodes", "2", "--ngpus", "0", "--tasks_per_node", str(PER_NODE), "--cpus_per_task", "1"]
JOB = [
    *TASKS, "--mem_gb", "1.5", "--timeout", "60", "--partition", "debug", "--comment", "tests",
]  # fmt: skip
followers: list[subprocess.Popen] = []


class Launched:
    """A running command that submits a job with --follow, and the job that it follows."""

    def __init__(self, cluster: SlurmCluster, folder: Path, *options: str, command: str = DETECTOR):
        self.cluster = cluster
        self.shown = folder / "shown.txt"
        self.errors = folder / "errors.txt"
        with self.shown.open("w") as out, self.errors.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / command, "--follow",
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
        """Wait until the job has finished this epoch."""
        wait_for(
            f"epoch {epoch} of job {self.job}",
            lambda: self.log().is_file() and f"\nepoch {epoch + 1}/" in self.log().read_text(),
            120,
        )

    def processes(self) -> dict[int, int]:
        """Return the process ids of the running tasks, by rank."""
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
        """Wait for the launcher to end; returns its stdout."""
        self.process.wait(240)
        return self.shown.read_text()

    def error(self) -> str:
        """Wait for the launcher, which must fail with one line; returns the line."""
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
    """Assert the same weights, to the bit, and that the log has each epoch once."""
    assert epochs_of(folder) == list(range(EPOCHS))
    expected, found = weights(undisturbed.folder), weights(folder)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def check_requeued(launched: Launched, undisturbed: Launched) -> None:
    """Assert that the job was requeued, that its follower said so, and that it ended well."""
    shown = launched.end()
    assert launched.process.returncode == 0, launched.errors.read_text() + shown
    assert launched.cluster.state(launched.job) == "COMPLETED"
    # A slow machine may reach a time limit of a minute more than once.
    assert launched.cluster.restarts(launched.job) >= 1, shown
    told = re.findall(rf"^-- job {launched.job}: (.*)$", shown, flags=re.MULTILINE)
    assert "requeued (restart 1)" in told
    after = told[told.index("requeued (restart 1)") :]
    assert any(line.startswith("running on 127.0.0.") for line in after), told
    assert "resuming " in shown
    assert f"\nepoch {EPOCHS}/{EPOCHS}  " in shown
    check_same_end(launched.folder, undisturbed)


def preempt(cluster: SlurmCluster) -> None:
    """Run a short job in the partition that preempts the others."""
    urgent = cluster.call(
        "sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive",
        "--output=/dev/null", "--wrap=sleep 1",
    )  # fmt: skip
    assert cluster.wait_until_over(urgent, 90) == "COMPLETED"
