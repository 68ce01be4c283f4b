"""The status of a job, as Slurm's commands report it."""

import re
import subprocess
from dataclasses import dataclass

# A job in any other state is still running, or will run again.
FINAL_STATES = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip

COMMAND_TIMEOUT_S = 60


class SlurmUnreachable(Exception):
    """Slurm does not answer now; it may later."""


@dataclass
class JobStatus:
    """The status of a job.

    Attributes:
        state: PENDING, RUNNING, COMPLETED, ...
        reason: Why it waits; empty if unknown.
        restarts: How often it was requeued.
        nodes: Where it runs; empty if unknown.
    """

    state: str
    reason: str = ""
    restarts: int = 0
    nodes: str = ""

    @property
    def is_over(self) -> bool:
        return self.state in FINAL_STATES


def job_status(job_id: str) -> JobStatus | None:
    """Return the status of a job; None if Slurm does not know it.

    The controller (scontrol) forgets a job minutes after its end. Accounting (sacct), which not
    every cluster has, remembers it.

    Raises:
        SlurmUnreachable: Neither of them answers.
    """
    shown = _run("scontrol", "--oneliner", "show", "job", job_id)
    if shown.returncode == 0 and "JobState=" in shown.stdout:
        return JobStatus(
            state=_value("JobState", shown.stdout),
            reason=_value("Reason", shown.stdout),
            restarts=int(_value("Restarts", shown.stdout) or 0),
            nodes=_value("NodeList", shown.stdout),
        )
    accounted = _run("sacct", "--noheader", "--allocations", "--format", "State%30", "-j", job_id)
    words = accounted.stdout.split()
    if accounted.returncode == 0 and words:
        return JobStatus(state=words[0])  # of "CANCELLED by 0"
    if "Invalid job id" in shown.stderr:
        return None
    raise SlurmUnreachable(shown.stderr.strip() or "no answer")


def is_running(job_id: str) -> bool:
    """Return False if the job is over, is being cancelled or is being requeued.

    A job that asks about itself while Slurm does not answer is taken to be running.
    """
    try:
        status = job_status(job_id)
    except SlurmUnreachable:
        return True
    return status is not None and status.state == "RUNNING"


def _run(*command: str) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _value(name: str, line: str) -> str:
    """Return the value of `name=value` in scontrol's line; empty if there is none."""
    found = re.search(rf"(?:^|\s){name}=(\S+)", line)
    return "" if found is None or found[1] in ("None", "(null)") else found[1]
