"""Printing a Slurm job's log and changes of state while it runs."""

import time
from pathlib import Path

from slurm.status import JobStatus, SlurmUnreachable, job_status

LOG_EVERY_S = 1.0
STATUS_EVERY_S = 4.0  # rarer: all users of the cluster share its controller


class GrowingFile:
    """A reader of the lines that were added to a file since the last call."""

    def __init__(self, path: Path):
        self.path = path
        self._position = 0
        self._partial = b""  # the beginning of a line whose end is not written yet

    def mtime(self) -> float:
        """Return when the file was last written to; 0 if there is no file yet."""
        try:
            return self.path.stat().st_mtime
        except OSError:
            return 0.0

    def new_lines(self, at_end: bool = False) -> str:
        """Return complete new lines; with `at_end` also an incomplete last one."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._position)
                added = file.read()
        except OSError:
            added = b""
        self._position += len(added)
        complete, newline, self._partial = (self._partial + added).rpartition(b"\n")
        lines = complete + newline
        if at_end and self._partial:
            lines, self._partial = lines + self._partial + b"\n", b""
        return lines.decode(errors="replace")


class JobFollower:
    """Prints the logs and the changes of state of a job until it is over.

    Args:
        job_id: The job's number.
        logs: Files that the job writes; they may not exist yet.
    """

    def __init__(self, job_id: str, logs: list[Path]):
        self.job_id = job_id
        self.logs = [GrowingFile(path) for path in logs]
        self._last_message = ""
        self._restarts = 0

    def follow(self) -> str:
        """Print until the job is over, and return its last state; UNKNOWN if Slurm has none."""
        while True:
            # Asked before the log is read: everything that a finished job wrote is there then.
            state = self._final_state()
            if state is not None:
                # Files on network disks show up a moment later.
                time.sleep(LOG_EVERY_S)
                self._print_logs(at_end=True)
                return state
            deadline = time.monotonic() + STATUS_EVERY_S
            while time.monotonic() < deadline:
                self._print_logs()
                time.sleep(LOG_EVERY_S)

    def _final_state(self) -> str | None:
        """Ask for the job's status; return its state if it is over."""
        try:
            status = job_status(self.job_id)
        except SlurmUnreachable:
            self._print("Slurm does not answer, asking again")
            return None
        if status is None:
            return "UNKNOWN"
        if status.is_over:
            return status.state
        if status.restarts > self._restarts:
            self._restarts = status.restarts
            self._print_logs()
            self._print(f"requeued (restart {status.restarts})")
        self._print(_in_words(status))
        return None

    def _print_logs(self, at_end: bool = False) -> None:
        """Print what is new in the logs; the log that was written to first comes first."""
        for log in sorted(self.logs, key=GrowingFile.mtime):
            print(log.new_lines(at_end), end="", flush=True)

    def _print(self, message: str) -> None:
        if message != self._last_message:
            print(f"-- job {self.job_id}: {message}", flush=True)
            self._last_message = message


def _in_words(status: JobStatus) -> str:
    if status.state == "RUNNING":
        return f"running on {status.nodes}"
    words = status.state.lower().replace("_", " ")
    return f"{words} ({status.reason})" if status.reason else words
