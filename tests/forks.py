"""Children of the test process: they need not import PyTorch first."""

import os
import sys
from collections.abc import Callable


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
