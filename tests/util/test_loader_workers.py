"""Loader workers that end before their time: what of a run goes on."""

import ctypes
import multiprocessing
import os
import signal
import tempfile
import time

import pytest
import torch

from datasets.loaders import Loader, _init_worker
from tests.helpers.forks import in_a_child
from util.errors import UserError
from util.signals import StopSignals


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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_ends_at_once(monkeypatch, number):
    """Before the loader has its iterator."""
    iterator = torch.utils.data.dataloader._MultiProcessingDataLoaderIter
    reset = iterator._reset

    def slow(self, *words, **options):
        reset(self, *words, **options)
        for worker in self._workers:
            worker.join(60)

    monkeypatch.setattr(iterator, "_reset", slow)
    batches = loader(lambda index: os.kill(os.getpid(), number))
    if number == signal.SIGKILL:
        assert numbers(batches) == list(range(12))
    else:
        with pytest.raises(UserError, match="ended with SIGSEGV"):
            numbers(batches)


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
