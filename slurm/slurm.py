"""What Slurm says about a job."""

import re
import subprocess
from dataclasses import dataclass

# A job in any other state is still going on, or will again.
OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip

ANSWER_WITHIN_S = 60


class SlurmDoesNotAnswer(Exception):
    """The controller cannot be asked now; it may be later."""


@dataclass
class JobStatus:
    """A job as Slurm sees it.

    Attributes:
        state: PENDING, RUNNING, COMPLETED, ...
        reason: why it waits; empty where unknown.
        restarts: how often it was queued again.
        nodes: where it runs; empty where unknown.
    """

    state: str
    reason: str = ""
    restarts: int = 0
    nodes: str = ""

    @property
    def is_over(self) -> bool:
        return self.state in OVER


def ask(job_id: str) -> JobStatus | None:
    """The status of a job; None if Slurm does not know it.

    The controller forgets a job minutes after its end; accounting, which not every cluster has,
    remembers it.

    Raises:
        SlurmDoesNotAnswer: neither of them can be asked.
    """
    told = _run("scontrol", "--oneliner", "show", "job", job_id)
    if told.returncode == 0 and "JobState=" in told.stdout:
        return JobStatus(
            state=_value("JobState", told.stdout),
            reason=_value("Reason", told.stdout),
            restarts=int(_value("Restarts", told.stdout) or 0),
            nodes=_value("NodeList", told.stdout),
        )
    remembered = _run("sacct", "--noheader", "--allocations", "--format", "State%30", "-j", job_id)
    words = remembered.stdout.split()
    if remembered.returncode == 0 and words:
        return JobStatus(state=words[0])  # of "CANCELLED by 0"
    if "Invalid job id" in told.stderr:
        return None
    raise SlurmDoesNotAnswer(told.stderr.strip() or "no answer")


def is_running(job_id: str) -> bool:
    """Does the job go on? A job that ends, is cancelled or is being queued again does not.

    Where Slurm does not answer, a job that asks about itself is taken to go on.
    """
    try:
        status = ask(job_id)
    except SlurmDoesNotAnswer:
        return True
    return status is not None and status.state == "RUNNING"


def _run(*command: str) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_WITHIN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _value(name: str, line: str) -> str:
    found = re.search(rf"(?:^|\s){name}=(\S+)", line)
    return "" if found is None or found[1] in ("None", "(null)") else found[1]
