"""Signals that stop a run, and loader workers that end before their time."""

import ctypes
import multiprocessing
import os
import signal
import tempfile
import threading
import time

import pytest
import torch

from datasets.loaders import Loader, _init_worker
from tests.helpers.forks import in_a_child
from util.errors import UserError
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
        with StopSignals(hang_s=0.3) as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(10):
                time.sleep(0.1)
                assert signals.received == signal.SIGTERM
        time.sleep(0.5)
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


# ---- loader workers ----


@pytest.fixture(autouse=True)
def _workers_are_looked_after_often(monkeypatch):
    """Look after loader workers every 0.1 s; PyTorch does it every 5 s."""
    method = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(method, "__defaults__", (0.1,))


class Numbers(torch.utils.data.Dataset):
    """0 to 11; `ends(index)` is called where a worker asks for one."""

    def __init__(self, ends):
        self.ends = ends

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if torch.utils.data.get_worker_info() is not None:
            self.ends(index)
        return torch.full((100_000,), float(index))


def loader(ends, num_workers: int = 2) -> Loader:
    return Loader(
        Numbers(ends), 2, num_workers=num_workers, worker_init_fn=_init_worker,
        persistent_workers=True, collate_fn=torch.stack,
    )  # fmt: skip


def numbers(batches) -> list[float]:
    return [number for batch in batches for number in batch[:, 0].tolist()]


def test_a_worker_killed_for_memory_stops_the_run_after_its_batch(capfd):
    """Not in the middle of something else, as PyTorch does it."""

    def kill(index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    with StopSignals() as signals:
        found = []
        for batch in loader(kill):
            found += batch[:, 0].tolist()
            assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL  # PyTorch's would raise
            if signals.received:
                break
        assert signals.received == signal.SIGCHLD
        assert 2 <= len(found) <= 6 and found == list(range(len(found)))
    assert "killed, as systems do when memory runs out" in capfd.readouterr().err


def test_an_evaluation_goes_on_without_workers(capfd):
    batches = loader(lambda index: os.kill(os.getpid(), signal.SIGKILL))
    for _ in range(2):
        assert numbers(batches) == list(range(12))
    assert capfd.readouterr().err.count("\n") == 1


def test_a_worker_that_is_not_gone_yet_is_waited_for(capfd):
    """It closes its connections some time before the system knows how it ended."""
    go, closed = multiprocessing.Event(), multiprocessing.Event()

    def end_slowly(index):
        if index == 4:
            go.wait(60)
            os.closerange(3, 1024)
            closed.set()
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)

    batches = loader(end_slowly, num_workers=1)
    with StopSignals():
        iterator = iter(batches)
        found = numbers([next(iterator)])
        assert batches._iterator._worker_result_queue._reader.poll(60)  # the second batch is ready
        go.set()
        assert closed.wait(60)
        assert found + numbers(iterator) == list(range(12))
    assert "killed, as systems do when memory runs out" in capfd.readouterr().err


def test_a_worker_that_crashes_is_an_error():
    with pytest.raises(UserError, match=r"ended with SIGSEGV; --num_workers 0 may show why"):
        numbers(loader(lambda index: os.kill(os.getpid(), signal.SIGSEGV)))


def test_mistakes_of_the_dataset_are_raised_as_they_are():
    def fail(index):
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        numbers(loader(fail))


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (b"size=200k", "cannot hand over their batches, as where /dev/shm is small"),
        (b"size=4k", "no loader workers can be started ([Errno 28] No space left"),
    ],
)
def test_a_small_dev_shm_costs_the_workers_and_nothing_else(size, says):
    """In a mount namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)

    def with_small_shm() -> int:
        new_mounts, private, recursive = 0x20000, 1 << 18, 1 << 14
        if libc.unshare(new_mounts) or libc.mount(None, b"/", None, private | recursive, None):
            return 3
        if libc.mount(b"none", b"/dev/shm", b"tmpfs", 0, size):
            return 3
        return 7 if numbers(loader(lambda _: None)) == list(range(12)) else 1

    code, said = in_a_child(with_small_shm)
    if code == 3:
        pytest.skip("cannot mount a small /dev/shm: not root")
    assert code == 7, said
    assert says in said and "Traceback" not in said


def test_without_a_folder_for_temporary_files_there_are_no_workers():
    """The batches' descriptors are handed over by sockets there."""

    def without() -> int:
        tempfile.tempdir = "/nowhere"
        multiprocessing.current_process()._config.pop("tempdir", None)
        return 7 if numbers(loader(lambda _: None)) == list(range(12)) else 1

    code, said = in_a_child(without)
    assert code == 7, said
    assert "loader worker: [Errno 2] No such file" in said and "Traceback" not in said


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
