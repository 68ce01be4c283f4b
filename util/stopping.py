"""Stopping a run from outside: signals only leave a note, which is read where a step ends."""

import contextlib
import os
import signal
import socket
import threading
import time
import types

# A run that was asked to stop, saved itself and can be resumed ends with this (EX_TEMPFAIL).
EXIT_STOPPED = 75

# kill, Slurm and torchrun; Ctrl-C; Slurm before a time limit or a preemption; a terminal that
# closes (the last two not on Windows).
NAMES = ("SIGTERM", "SIGINT", "SIGUSR2", "SIGHUP")
STOP_SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
# nohup, and shells for what they start in the background, have them ignored: that stays.
MAY_BE_IGNORED = {"SIGINT", "SIGHUP"}

SILENT_S = 300  # without the end of a batch after a signal: the run hangs
IMPATIENT_S = 10  # the same after a second Ctrl-C

_own_wish = 0


def stop_soon(reason: int) -> None:
    """Let the run of this process stop at the end of its step, as if it got a signal.

    Args:
        reason: SIGPIPE where nobody reads its output, SIGCHLD where a loader worker was killed.
    """
    global _own_wish
    _own_wish = _own_wish or reason


class Stopped(Exception):
    """The run was asked to stop and has saved itself; raised by every process of it.

    Args:
        signum: the signal that one of the processes got, or the reason of `stop_soon`.
        saved: False where there is no folder to save to.

    Attributes:
        exit_code: what the process shall end with.
    """

    def __init__(self, signum: int, saved: bool):
        way = "--resume auto goes on" if saved else "without --output_dir nothing was saved"
        self.signum = signum
        self.exit_code = EXIT_STOPPED if saved else 128 + signum
        what = f"stopped by {signal.Signals(signum).name}"
        if signum == signal.SIGPIPE:
            what += ", its output cannot be written"
        elif signum == signal.SIGCHLD:
            what = (
                "error: a loader worker was killed, as systems do when memory runs out: lower "
                "--num_workers or --batch_size"
            )
            self.exit_code = 1  # who starts it again as it was would meet the same
        super().__init__(f"{what}; {way}")


class StopSignals:
    """While this context lasts, a stop signal is remembered instead of ending the process.

    Nothing is saved by the handler: it may run in the middle of an update of the weights. A second
    Ctrl-C raises KeyboardInterrupt, for those who do not want to wait for the end of the step. If
    the step does not end because another process hangs, this one ends without saving.

    Args:
        speaks: say on stderr that a signal came.
        apart: seconds from which on two Ctrl-C are two; torchrun passes on one that came already.
        silent: seconds after a signal without a look at `received` that the process survives.
    """

    def __init__(self, speaks: bool = True, apart: float = 2, silent: float = SILENT_S):
        self.speaks = speaks
        self.apart = apart
        self.silent = silent
        self._received = 0
        self._first = 0.0
        self._last_look = time.monotonic()
        self._before = {}
        self._over = threading.Event()

    @property
    def received(self) -> int:
        """Number of the first signal that came, 0 if none; asked once a batch."""
        self._last_look = time.monotonic()
        return self._received or _own_wish

    def __enter__(self) -> "StopSignals":
        # Python allows handlers in the main thread alone; a notebook may run elsewhere.
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._note)
                for number in STOP_SIGNALS
                if number.name not in MAY_BE_IGNORED
                or signal.getsignal(number) is not signal.SIG_IGN
            }
            # A main thread that waits for another process runs no handler; the system still
            # writes the signal's number there, which a thread reads.
            self._numbers, writes = socket.socketpair()
            writes.setblocking(False)
            self._writes = writes
            self._wakeup_before = signal.set_wakeup_fd(writes.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._end_if_it_hangs, name="stopping", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        global _own_wish
        _own_wish = 0
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._wakeup_before)
            self._over.set()
            with contextlib.suppress(OSError):  # the thread has ended, or has enough to read
                self._writes.send(b"\0")
            self._writes.close()

    def _note(self, signum: int, frame: types.FrameType | None) -> None:
        if signum == self._received == signal.SIGINT:
            if time.monotonic() - self._first >= self.apart:
                raise KeyboardInterrupt
        elif not self._received:
            self._received, self._first = signum, time.monotonic()
            if self.speaks:
                name = signal.Signals(signum).name
                say(f"{name}: this run will stop at the end of its step")

    def _end_if_it_hangs(self) -> None:
        """In a thread: wait for a signal, then for a sign of life, and end the process else."""
        with self._numbers:
            number = b"\0"
            while number[0] not in self._before:
                number = self._numbers.recv(1)
                if self._over.is_set():
                    return
            came = time.monotonic()
            self._numbers.settimeout(min(1, self.silent))
            silent = self.silent
            while not self._over.is_set():
                with contextlib.suppress(TimeoutError):
                    again = self._numbers.recv(1)
                    if again == number == bytes([signal.SIGINT]):
                        late = time.monotonic() - came >= self.apart
                        silent = min(silent, IMPATIENT_S) if late else silent
                if time.monotonic() - max(came, self._last_look) >= silent:
                    name = signal.Signals(number[0]).name
                    say(
                        f"error: {name}, but the step did not end within {silent:g} s: another "
                        "process or a device hangs; this one ends without saving"
                    )
                    os._exit(128 + number[0])


def say(line: str) -> None:
    """Write to stderr where print cannot be used; nothing happens if nobody reads it."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


def leave_stopping_to_main(worker_id: int = 0) -> None:
    """Give a loader worker, which inherits the handlers of its process, its own.

    Ctrl-C and Slurm signal all processes of a job. The main process still needs the workers to
    end its step, so they ignore what tells it to stop, and end when it ends them, or ends itself.

    Args:
        worker_id: not used; what DataLoader's worker_init_fn is called with.
    """
    signal.set_wakeup_fd(-1)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS: SIGTERM ends a worker, whoever sends it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return
    # A handler would not learn who sent the signal, a thread that waits for it does.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent sends SIGTERM, as DataLoader does with workers that hang."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
