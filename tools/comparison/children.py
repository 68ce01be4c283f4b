"""Child processes, one at a time: signals are handed on to them, and they do not outlive this one.

A child has a session of its own, so that Ctrl-C reaches it once, from here, and not also from the
terminal.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

from training.output_dir import lock_folder
from util.errors import UserError, one_line
from util.files import report_write_errors
from util.signals import EXIT_STOPPED, MAY_BE_IGNORED, STOP_SIGNALS

OUTPUT = "output.txt"
PR_SET_PDEATHSIG = 1  # of Linux: a signal for a process whose parent ends
MAX_TAIL = 20_000  # bytes of a child's output in which its last line is looked for


class StudyStopped(Exception):
    """A signal stopped the study, or the run that it waited for."""


class Children:
    """A context in which children are run, and in which signals for this process stop them."""

    def __init__(self) -> None:
        self._child: subprocess.Popen | None = None
        self._received = 0
        self._before: dict = {}

    def __enter__(self) -> "Children":
        self._before = {
            number: signal.signal(number, self._hand_on)
            for number in STOP_SIGNALS
            if number.name not in MAY_BE_IGNORED or signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hand_on(self, signum: int, frame: types.FrameType | None) -> None:
        self._received = signum
        if self._child is not None:
            self._child.send_signal(signum)  # nothing if it has ended

    def run(self, command: list[str], folder: Path) -> str:
        """Run a command to its end; its output is added to output.txt in `folder`.

        Returns:
            "" if it has succeeded, else what it said last.

        Raises:
            StudyStopped: it was stopped, or this process was told to stop.
            UserError: the folder cannot be written to.
        """
        if self._received:
            raise StudyStopped
        path = folder / OUTPUT
        with report_write_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            output = path.open("ab")
        with output:
            start = output.tell()
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=_end_with_parent(),
            )  # fmt: skip
            if self._received:  # between the look above and the start
                self._child.send_signal(self._received)
            code = self._child.wait()
            self._child = None
        if self._received or code == EXIT_STOPPED:
            raise StudyStopped
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        return "" if code == 0 else last_line(path, start) or f"exit code {code}"

    def wait_until_free(self, folder: Path, pause: float = 1.0) -> None:
        """Wait while a process trains into a folder.

        It may be the child of a study that was killed, which completes its step and saves.

        Raises:
            StudyStopped: this process was told to stop.
        """
        told = False
        # A folder that cannot be written to is left to the run, which says so.
        while folder.is_dir() and os.access(folder, os.W_OK):
            try:
                lock = lock_folder(folder)
            except UserError as error:
                if not told:
                    print(f"waiting: {error}", file=sys.stderr, flush=True)
                told = True
                time.sleep(pause)
                if self._received:
                    raise StudyStopped from error
                continue
            if lock is not None:
                lock.close()
            return


def _end_with_parent() -> Callable[[], None] | None:
    """Return what a child calls to get a SIGTERM when this process ends, however it does."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def call() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)

    return call


def last_line(path: Path, start: int) -> str:
    """Return the last line of a file's text after `start` bytes, without "error: "."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - MAX_TAIL))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return one_line(lines[-1].removeprefix("error: "), 300) if lines else ""
