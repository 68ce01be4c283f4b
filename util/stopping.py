"""Stopping a run from outside: signals only leave a note, which is read where a step ends."""

import os
import signal
import threading
import time
import types

# A run that was asked to stop, saved itself and can be resumed ends with this (EX_TEMPFAIL).
EXIT_STOPPED = 75

# kill, Slurm and torchrun; Ctrl-C; Slurm before a time limit or a preemption (not on Windows).
NAMES = ("SIGTERM", "SIGINT", "SIGUSR2")
STOP_SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class Stopped(Exception):
    """The run was asked to stop and has saved itself; raised by every process of it.

    Args:
        signum: the signal that one of the processes got.
        saved: False where there is no folder to save to.

    Attributes:
        exit_code: what the process shall end with.
    """

    def __init__(self, signum: int, saved: bool):
        way = "--resume auto goes on" if saved else "without --output_dir nothing was saved"
        super().__init__(f"stopped by {signal.Signals(signum).name}; {way}")
        self.signum = signum
        self.exit_code = EXIT_STOPPED if saved else 128 + signum


class StopSignals:
    """While this context lasts, a stop signal is remembered instead of ending the process.

    Nothing is saved by the handler: it may run in the middle of an update of the weights. A second
    Ctrl-C raises KeyboardInterrupt, for those who do not want to wait for the end of the step.

    Args:
        speaks: say on stderr that a signal came.
        apart: seconds from which on two Ctrl-C are two; torchrun passes on one that came already.

    Attributes:
        received: number of the first signal that came, 0 if none.
    """

    def __init__(self, speaks: bool = True, apart: float = 2):
        self.speaks = speaks
        self.apart = apart
        self.received = 0
        self._first = 0.0
        self._before = {}

    def __enter__(self) -> "StopSignals":
        # Python allows handlers in the main thread alone; a notebook may run elsewhere.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, signum: int, frame: types.FrameType | None) -> None:
        if signum == self.received == signal.SIGINT:
            if time.monotonic() - self._first >= self.apart:
                raise KeyboardInterrupt
        elif not self.received:
            self.received, self._first = signum, time.monotonic()
            if self.speaks:
                name = signal.Signals(signum).name
                # Not print: the signal may have come in the middle of one.
                os.write(2, f"{name}: this run will stop at the end of its step\n".encode())


def leave_stopping_to_main(worker_id: int = 0) -> None:
    """Give a loader worker, which inherits the handlers of its process, its own.

    Ctrl-C and Slurm signal all processes of a job. The main process still needs the workers to
    end its step, so they ignore what tells it to stop, and end when it ends them, or ends itself.

    Args:
        worker_id: not used; what DataLoader's worker_init_fn is called with.
    """
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
