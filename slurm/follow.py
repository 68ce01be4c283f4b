"""Showing a Slurm job while it runs: its log as it grows, and what becomes of it."""

import time
from pathlib import Path

from slurm.slurm import JobStatus, SlurmDoesNotAnswer, ask

LOG_EVERY_S = 1.0
# The controller serves everybody: it is asked less often than the log is read.
STATUS_EVERY_S = 4.0


class GrowingFile:
    """Hands out the whole lines that were added since the last look."""

    def __init__(self, path: Path):
        self.path = path
        self._position = 0
        self._begun = b""  # of a line that is not whole yet

    def changed(self) -> float:
        """When the file was last written to; 0 if there is none yet."""
        try:
            return self.path.stat().st_mtime
        except OSError:
            return 0.0

    def new_lines(self, also_last: bool = False) -> str:
        """Whole lines; with `also_last` the last one, too, whole or not."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._position)
                added = file.read()
        except OSError:
            added = b""
        self._position += len(added)
        whole, newline, rest = (self._begun + added).rpartition(b"\n")
        if also_last:
            whole, newline, rest = whole + newline + rest, b"\n" if rest else b"", b""
        self._begun = rest
        return (whole + newline).decode(errors="replace")


class Follower:
    """Prints logs and changes of state of a job until it is over.

    Args:
        job_id: the job's number.
        logs: files that the job writes; they may not exist yet.
    """

    def __init__(self, job_id: str, logs: list[Path]):
        self.job_id = job_id
        self.logs = [GrowingFile(path) for path in logs]
        self._said = ""
        self._restarts = 0

    def follow(self) -> str:
        """Returns the state in which the job ended; UNKNOWN if Slurm does not know it."""
        while True:
            # Asked before the log is read: what a job that is over wrote is then all there.
            state = self._ask()
            if state is not None:
                # Files of network disks show up a moment later.
                time.sleep(LOG_EVERY_S)
                self._print_logs(at_end=True)
                return state
            end = time.monotonic() + STATUS_EVERY_S
            while time.monotonic() < end:
                self._print_logs()
                time.sleep(LOG_EVERY_S)

    def _ask(self) -> str | None:
        """The job's last state if it is over."""
        try:
            status = ask(self.job_id)
        except SlurmDoesNotAnswer:
            self._say("Slurm does not answer, asking again")
            return None
        if status is None:
            return "UNKNOWN"
        if status.is_over:
            return status.state
        if status.restarts > self._restarts:
            self._restarts = status.restarts
            self._print_logs()
            self._say(f"requeued (restart {status.restarts})")
        self._say(_in_words(status))
        return None

    def _print_logs(self, at_end: bool = False) -> None:
        """Of several files, the one that was written to first comes first."""
        for log in sorted(self.logs, key=GrowingFile.changed):
            print(log.new_lines(at_end), end="", flush=True)

    def _say(self, what: str) -> None:
        if what != self._said:
            print(f"-- job {self.job_id}: {what}", flush=True)
            self._said = what


def _in_words(status: JobStatus) -> str:
    if status.state == "RUNNING":
        return f"running on {status.nodes}"
    words = status.state.lower().replace("_", " ")
    return f"{words} ({status.reason})" if status.reason else words
