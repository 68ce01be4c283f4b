"""The progress that is shown, of an epoch and of the whole run."""

import argparse

import pytest

from training import metrics
from training.loop import run_progress
from training.metrics import RunProgress, progress


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by clock[0]."""
    now = [1000.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    return now


def test_lines_of_a_log_tell_of_the_epoch_and_of_the_run_progress(clock, capsys):
    """30 of 100 batches were done before; each of the others takes 20 s."""
    run = RunProgress(total=100, done=30)
    for _ in progress(range(5), "Epoch 3", lambda: "loss 0.5", 5, run):
        clock[0] += 20
    for _ in progress(range(3), "Evaluation", lambda: "loss 0.6", run=run, cost=1 / 3):
        clock[0] += 20
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 3  7/10  0:01:00 left  run 32% done, 0:22:40 left  loss 0.5  data 0%",
        "Epoch 3  9/10  0:00:20 left  run 34% done, 0:22:00 left  loss 0.5  data 0%",
        "Epoch 3  10/10  0:00:00 left  run 35% done, 0:21:40 left  loss 0.5  data 0%",
        "Evaluation  2/3  0:00:20 left  run 36% done, 0:26:29 left  loss 0.6  data 0%",
        "Evaluation  3/3  0:00:00 left  run 36% done, 0:28:27 left  loss 0.6  data 0%",
    ]


def test_a_bar_tells_of_the_run_progress(clock, capsys, monkeypatch):
    monkeypatch.setattr(metrics.sys.stderr, "isatty", lambda: True, raising=False)
    for _ in progress(range(4), "Epoch 0", run=RunProgress(total=8)):
        clock[0] += 20
    assert "run 50% done, 0:01:20 left" in capsys.readouterr().err


def test_without_a_run_there_is_only_the_epoch(clock, capsys):
    for _ in progress(range(2), "Evaluation", lambda: "loss 1"):
        clock[0] += 40
    line = capsys.readouterr().out.splitlines()[0]
    assert line == "Evaluation  1/2  0:00:40 left  loss 1  data 0%"


def test_waiting_for_data_and_memory_of_the_gpu_are_shown(clock, capsys, monkeypatch):
    """Each batch takes 9 s to come and 31 s to work on; 3 GiB of the GPU's memory were used."""

    class Batches(list):
        def __iter__(self):
            for batch in super().__iter__():
                clock[0] += 9
                yield batch

    monkeypatch.setattr(metrics.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(metrics.torch.cuda, "max_memory_allocated", lambda: 3 * 2**30)
    for _ in progress(Batches([1, 2]), "Epoch 1"):
        clock[0] += 31
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("data 22%  GPU 3.0 GiB")  # 9 / 40 = 22.5 %, to even


def test_the_whole_run_in_batches():
    """10 epochs of 20 batches; 4 evaluations, of 6 batches that cost a third each."""
    args = argparse.Namespace(epochs=10, eval_every=3)
    state = argparse.Namespace(args=args, epoch=-1, step=0)
    assert run_progress(state, 20, 6).total == pytest.approx(10 * 20 + 4 * 2)
    assert run_progress(state, 20, 6).done == 0
    state.epoch, state.step = 3, 5
    assert run_progress(state, 20, 6).done == pytest.approx(4 * 20 + 5 + 2)
    state.epoch, state.step = 9, 0
    assert run_progress(state, 20, 6).done == run_progress(state, 20, 6).total
