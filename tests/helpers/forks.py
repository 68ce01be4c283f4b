"""Processes that tests start: forks of this one, signals, and all that come from a process."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path


def default_signals() -> None:
    """Undo that `nohup` and shells have children in the background ignore some signals."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def signal_all(pid: int, number: int) -> None:
    """Signal a process and all that come from it, as Slurm does (torchrun's have own groups)."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            )
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    for one in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, number)


def start_child(work: Callable[[], int | None]) -> tuple[int, int]:
    """Call `work` in a fork of this process, which ends with the code that it returns.

    Returns:
        The child's process id; a descriptor to read its stderr from.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.dup2(write, 2)
            os.close(write)
            os.close(read)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            code = work() or 0
        finally:
            os._exit(code)
    os.close(write)
    return pid, read


def end_of_child(pid: int, stderr: int) -> tuple[int, str]:
    """What it ends with, and says on stderr."""
    with os.fdopen(stderr) as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def in_a_child(work: Callable[[], int | None]) -> tuple[int, str]:
    return end_of_child(*start_child(work))
