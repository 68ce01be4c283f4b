"""Stopping a run by signals: a handler only records the signal, the run stops after its step."""

import contextlib
import os
import shlex
import signal
import socket
import sys
import threading
import time
import types

# Exit code of a run that was stopped, has saved itself and can be resumed (EX_TEMPFAIL).
EXIT_STOPPED = 75

# From kill, Slurm and torchrun; Ctrl-C; Slurm before a time limit or a preemption; a terminal that
# closes (the last two do not exist on Windows).
NAMES = ("SIGTERM", "SIGINT", "SIGUSR2", "SIGHUP")
STOP_SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
# nohup, and shells for jobs in the background, set these to be ignored: they stay ignored.
MAY_BE_IGNORED = {"SIGINT", "SIGHUP"}

HANG_S = 300  # without the end of a batch after a signal: the run hangs
IMPATIENT_HANG_S = 10  # the same after a second Ctrl-C

_requested = 0


def request_stop(reason: int) -> None:
    """Let this process's run stop after its current step, as if it had received a signal.

    Args:
        reason: SIGPIPE if its output cannot be written any more, SIGCHLD if a loader worker was
            killed.
    """
    global _requested
    _requested = _requested or reason


class Stopped(Exception):
    """The run was asked to stop and has saved itself; every process of the run raises it.

    Args:
        signum: The signal that one of the processes received, or the reason of `request_stop`.
        saved: False without a folder to save to.

    Attributes:
        exit_code: The exit code for the process.
    """

    def __init__(self, signum: int, saved: bool):
        self.signum = signum
        self.exit_code = EXIT_STOPPED if saved else 128 + signum
        reason = f"stopped by {signal.Signals(signum).name}"
        if signum == signal.SIGPIPE:
            reason += ", its output cannot be written"
        elif signum == signal.SIGCHLD:
            reason = (
                "error: a loader worker was killed, as systems do when memory runs out: lower "
                "--num_workers or --batch_size"
            )
            self.exit_code = 1  # a restart with the same options would meet the same end
        way = (
            f"continue with {resuming_command()}"
            if saved
            else "without --output_dir nothing was saved"
        )
        super().__init__(f"{reason}; {way}")


def resuming_command() -> str:
    """Return the command line that resumes this process's run."""
    words = list(sys.argv)
    if "--resume" in words:
        place = words.index("--resume")
        del words[place : place + 2]
    words = [word for word in words if not word.startswith("--resume=")]
    if "RANK" not in os.environ:
        start = "python"
    elif "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("GROUP_WORLD_SIZE") == "1":
        start = f"torchrun --nproc_per_node={os.environ['LOCAL_WORLD_SIZE']}"
    else:
        start = "the same launcher and"
    return f"{start} {shlex.join([*words, '--resume', 'auto'])}"


class StopSignals:
    """A context in which stop signals are recorded instead of ending the process.

    The handler saves nothing, because it may run in the middle of an update of the weights. A
    second Ctrl-C raises KeyboardInterrupt, for users who do not want to wait for the end of the
    step. If the step does not end, because another process hangs, this one exits without saving.

    Args:
        verbose: Print on stderr that a signal came.
        interval: Two Ctrl-C within fewer seconds count as one, because torchrun sends a process
            once more what the terminal sent to all of them.
        hang_s: Seconds after a signal without a look at `received` before the process exits.
    """

    def __init__(self, verbose: bool = True, interval: float = 2, hang_s: float = HANG_S):
        self.verbose = verbose
        self.interval = interval
        self.hang_s = hang_s
        self._received = 0
        self._first = 0.0
        self._last_look = time.monotonic()
        self._handlers_before = {}
        self._over = threading.Event()

    @property
    def received(self) -> int:
        """Number of the first signal that came, or 0. Read it once a batch, as a sign of life."""
        self._last_look = time.monotonic()
        return self._received or _requested

    def __enter__(self) -> "StopSignals":
        # Python allows handlers in the main thread alone; a notebook may run this in another one.
        if threading.current_thread() is threading.main_thread():
            self._handlers_before = {
                number: signal.signal(number, self._handle)
                for number in STOP_SIGNALS
                if number.name not in MAY_BE_IGNORED
                or signal.getsignal(number) is not signal.SIG_IGN
            }
            # Handlers do not run while the main thread waits in a collective operation. The
            # interpreter still writes the signal's number to this socket, which a thread reads.
            self._numbers, writes = socket.socketpair()
            writes.setblocking(False)
            self._writes = writes
            self._wakeup_before = signal.set_wakeup_fd(writes.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._exit_if_hanging, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        global _requested
        _requested = 0
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        if self._handlers_before:
            signal.set_wakeup_fd(self._wakeup_before)
            self._over.set()
            with contextlib.suppress(OSError):  # the thread has ended, or has enough to read
                self._writes.send(b"\0")
            self._writes.close()

    def _handle(self, signum: int, frame: types.FrameType | None) -> None:
        if signum == self._received == signal.SIGINT:
            if time.monotonic() - self._first >= self.interval:
                raise KeyboardInterrupt
        elif not self._received:
            self._received, self._first = signum, time.monotonic()
            if self.verbose:
                name = signal.Signals(signum).name
                write_stderr(f"{name}: this run will stop at the end of its step")

    def _exit_if_hanging(self) -> None:
        """Wait in a thread for a signal, and exit unless the run then gives signs of life."""
        with self._numbers:
            number = b"\0"
            while number[0] not in self._handlers_before:
                number = self._numbers.recv(1)
                if self._over.is_set():
                    return
            came = time.monotonic()
            hang_s, overdue = self.hang_s, 0
            self._numbers.settimeout(min(1, hang_s))
            while not self._over.is_set():
                with contextlib.suppress(TimeoutError):
                    again = self._numbers.recv(1)
                    if again == number == bytes([signal.SIGINT]):
                        is_second = time.monotonic() - came >= self.interval
                        hang_s = min(hang_s, IMPATIENT_HANG_S) if is_second else hang_s
                waited = time.monotonic() - max(came, self._last_look)
                overdue = overdue + 1 if waited >= hang_s else 0
                # Twice: a process that was stopped for a while, as Slurm does, has not looked.
                if overdue == 2:
                    name = signal.Signals(number[0]).name
                    write_stderr(
                        f"error: {name}, but the step did not end within {hang_s:g} s: another "
                        "process or a device hangs; this one ends without saving"
                    )
                    os._exit(128 + number[0])


def write_stderr(line: str) -> None:
    """Write a line to stderr, without buffers or locks, so that signal handlers may call it."""
    with contextlib.suppress(OSError):  # nobody reads it
        # On a terminal the line may have a bar, which is drawn again with the next batch.
        begin = "\r\x1b[K" if os.isatty(2) else ""
        os.write(2, f"{begin}{line}\n".encode())


def ignore_stop_signals(worker_id: int = 0) -> None:
    """Let a loader worker ignore stop signals; DataLoader calls this as worker_init_fn.

    Ctrl-C and Slurm signal all processes of a job, and the main process still needs its workers to
    complete the step. They end when the main process ends them or ends itself.

    Args:
        worker_id: Not used.
    """
    signal.set_wakeup_fd(-1)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS: SIGTERM ends a worker, whoever sends it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return
    # A Python handler does not learn who sent the signal, a thread that waits for it does.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_exit_on_parents_sigterm, daemon=True).start()


def _exit_on_parents_sigterm() -> None:
    """Exit on a SIGTERM of the parent, which DataLoader sends to workers that hang."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
