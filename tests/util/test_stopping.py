"""Signals that stop a run."""

import ctypes
import os
import signal
import threading
import time

import pytest

from tests.helpers.forks import in_a_child
from util.signals import EXIT_STOPPED, Stopped, StopSignals, request_stop, resuming_command

# ---- signals ----


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR2", "SIGHUP"])
def test_a_signal_is_noted(name, capfd):
    number = signal.Signals[name]
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with StopSignals() as signals:
            assert signals.received == 0
            os.kill(os.getpid(), number)
            assert signals.received == number
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert capfd.readouterr().err == f"{name}: this run will stop at the end of its step\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_what_nohup_and_shells_ignore_stays_ignored(name):
    number = signal.Signals[name]
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), number)
            assert signals.received == 0 and signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_preemption_is_heard_although_the_start_ignored_it():
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert signals.received == signal.SIGUSR2
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_handler_survives_a_reader_of_stderr_that_is_gone():
    def lose_stderr() -> int:
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 2)
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            first = signals.received
            os.close(2)
            os.kill(os.getpid(), signal.SIGINT)
            return 7 if first == signals.received == signal.SIGTERM else 1

    assert in_a_child(lose_stderr)[0] == 7


def hang(*signals_sent: int, hang_s: float) -> int:
    """Signal the process while its main thread runs no handlers, as in a collective that waits."""
    with StopSignals(hang_s=hang_s, interval=0):
        for number in signals_sent:
            threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        end = time.monotonic() + 20
        libc = ctypes.CDLL(None)  # lets go of the interpreter's lock, as collectives do
        while time.monotonic() < end:
            signal.pthread_sigmask(signal.SIG_BLOCK, ())
            libc.sleep(20)
    return 1


def test_a_run_that_hangs_ends_some_time_after_a_signal():
    start = time.monotonic()
    code, said = in_a_child(lambda: hang(signal.SIGTERM, hang_s=0.5))
    assert code == 128 + signal.SIGTERM and time.monotonic() - start < 15
    assert said.strip().splitlines()[-1] == (
        "error: SIGTERM, but the step did not end within 0.5 s: another process or a device hangs; "
        "this one ends without saving"
    )


def test_a_run_that_lives_is_left_alone():
    def work() -> int:
        with StopSignals(hang_s=1) as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(25):
                time.sleep(0.1)
                assert signals.received == signal.SIGTERM
        time.sleep(0.5)
        return 7

    code, said = in_a_child(work)
    assert code == 7, said


def test_a_run_that_was_stopped_itself_is_left_alone():
    """As by Slurm, which suspends jobs; it could not look then."""

    def work() -> int:
        with StopSignals(hang_s=1) as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.received == signal.SIGTERM
            if os.fork() == 0:
                time.sleep(1.5)
                os.kill(os.getppid(), signal.SIGCONT)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGSTOP)
            for _ in range(8):
                time.sleep(0.2)  # the thread that watches is the first to go on
                assert signals.received == signal.SIGTERM
        return 7

    code, said = in_a_child(work)
    assert code == 7, said


def test_reasons_of_its_own(monkeypatch):
    monkeypatch.setattr("sys.argv", ["main.py", "--resume", "old.pth", "--coco_path", "my data"])
    assert Stopped(signal.SIGHUP, saved=True).exit_code == EXIT_STOPPED == 75
    assert Stopped(signal.SIGHUP, saved=False).exit_code == 129
    lost = Stopped(signal.SIGPIPE, saved=True)
    assert str(lost) == (
        "stopped by SIGPIPE, its output cannot be written; continue with "
        "python main.py --coco_path 'my data' --resume auto"
    )
    monkeypatch.setattr("sys.argv", ["main.py", "--resume=old.pth"])
    monkeypatch.setenv("RANK", "0")
    assert resuming_command() == "the same launcher and main.py --resume auto"
    launched = {"TORCHELASTIC_RUN_ID": "none", "GROUP_WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "8"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert resuming_command() == "torchrun --nproc_per_node=8 main.py --resume auto"
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert resuming_command() == "the same launcher and main.py --resume auto"
    memory = Stopped(signal.SIGCHLD, saved=True)
    assert memory.exit_code == 1 and "lower --num_workers or --batch_size" in str(memory)
    with StopSignals() as signals:
        request_stop(signal.SIGCHLD)
        assert signals.received == signal.SIGCHLD


def test_a_second_interrupt_does_not_wait_unless_it_is_the_first_again():
    before = signal.getsignal(signal.SIGINT)
    with StopSignals(interval=60) as signals:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGINT
    with pytest.raises(KeyboardInterrupt), StopSignals(interval=0) as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
