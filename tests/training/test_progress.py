"""The progress that is shown, of an epoch and of the whole run."""

import argparse

import pytest

from training.loop import run_progress
from training.progress import bar, run
from training.progress.bar import fitting, progress, shown_number
from training.progress.run import RunProgress, epoch_of, short_time


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by clock[0]."""
    now = [1000.0]
    for module in (bar, run):
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_lines_of_a_log_tell_of_the_epoch_and_of_the_run_progress(clock, capsys):
    """30 of 100 batches were done before; each of the others takes 20 s."""
    whole = RunProgress(total=100, done=30, epochs=9)
    for _ in progress(range(5), "epoch 3/9", lambda: ["loss 0.5", "lr 1"], 5, whole):
        clock[0] += 20
    for _ in progress(range(3), "eval 3/9", lambda: ["loss 0.6"], 0, whole, 1 / 3, last_line=False):
        clock[0] += 20
    assert capsys.readouterr().out.splitlines() == [
        "epoch 3/9  7/10  loss 0.5 lr 1  run 32% 22m40s left  data 0%",
        "epoch 3/9  9/10  loss 0.5 lr 1  run 34% 22m00s left  data 0%",
        "epoch 3/9  10/10  loss 0.5 lr 1  run 35% 21m40s left  data 0%",
        "eval 3/9  2/3  loss 0.6  run 36% 26m29s left  data 0%",
    ]


def test_a_bar_tells_of_the_run_progress(clock, capsys, monkeypatch):
    monkeypatch.setattr(bar.sys.stderr, "isatty", lambda: True, raising=False)
    for _ in progress(range(4), "epoch 1/2", run=RunProgress(total=8)):
        clock[0] += 20
    told = capsys.readouterr()
    assert "epoch 1/2 |" in told.err and "| run 38% 1m40s left" in told.err
    assert told.out == "epoch 1/2  4/4  run 50% 1m20s left  data 0%\n"


def test_without_a_run_there_is_only_the_epoch(clock, capsys):
    for _ in progress(range(2), "images", lambda: ["loss 1"]):
        clock[0] += 40
    line = capsys.readouterr().out.splitlines()[0]
    assert line == "images  1/2  loss 1  40s left  data 0%"


def test_waiting_for_data_and_memory_of_the_gpu_are_shown(clock, capsys, monkeypatch):
    """Each batch takes 9 s to come and 31 s to work on; 3 GiB of the GPU's memory were used."""

    class Batches(list):
        def __iter__(self):
            for batch in super().__iter__():
                clock[0] += 9
                yield batch

    monkeypatch.setattr(bar.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(bar.torch.cuda, "max_memory_allocated", lambda: 3 * 2**30)
    for _ in progress(Batches([1, 2]), "epoch 1/1"):
        clock[0] += 31
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("data 22% GPU 3.0 GiB")  # 9 / 40 = 22.5 %, to even


def test_the_whole_run_in_batches():
    """10 epochs of 20 batches; 4 evaluations, of 6 batches that cost a third each."""
    args = argparse.Namespace(epochs=10, eval_every=3)
    state = argparse.Namespace(args=args, epoch=-1, step=0)
    assert run_progress(state, 20, 6).total == pytest.approx(10 * 20 + 4 * 2)
    assert run_progress(state, 20, 6).done == 0 and run_progress(state, 20, 6).epochs == 10
    state.epoch, state.step = 3, 5
    assert run_progress(state, 20, 6).done == pytest.approx(4 * 20 + 5 + 2)
    state.epoch, state.step = 9, 0
    assert run_progress(state, 20, 6).done == run_progress(state, 20, 6).total


def test_epochs_are_counted_from_1():
    assert epoch_of(0, 20) == "epoch 1/20" and epoch_of(19, 20, "eval") == "eval 20/20"
    assert epoch_of(0) == "epoch 1" and epoch_of(None, 20, "eval") == "eval"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0s"), (59.4, "59s"), (59.6, "1m00s"), (725, "12m05s"), (3600 * 24 - 60, "23h59m"),
     (5000, "1h23m"), (3600 * 52 + 1, "2d04h")],
)  # fmt: skip
def test_times_are_short(seconds, shown):
    assert short_time(seconds) == shown


def test_what_does_not_fit_is_left_out():
    groups = [["epoch 1/2"], ["loss 5.37", "ce 1.2"], ["data 3%"]]
    assert fitting(groups, 100) == "epoch 1/2  loss 5.37 ce 1.2  data 3%"
    assert fitting(groups, 35) == "epoch 1/2  loss 5.37 ce 1.2"
    assert fitting(groups, 26) == "epoch 1/2  loss 5.37"
    assert [shown_number(x) for x in (0.0001, 1e-5, 5.3741, 1234.5, 0)] == [
        "0.0001", "1e-05", "5.37", "1234", "0"
    ]  # fmt: skip
