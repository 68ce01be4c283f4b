"""A run that was stopped and resumed is the run that was never stopped, to the bit."""

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import error_line, free_port, run_ok
from tests.helpers.data import make_shapes
from tests.helpers.runs import assert_same_run, command, result_of, signal_all, start, wait_for
from util.checkpoint import load_checkpoint
from util.signals import EXIT_STOPPED

STEPS = 8  # of an epoch, with one process


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "shapes"
    return make_shapes(out, "--train", "16", "--val", "3", "--size", "80", "--aspect", "1.5")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """Return undisturbed(processes): the folder of a run that is never stopped."""
    done = {}

    def of(processes: int) -> Path:
        if processes not in done:
            done[processes] = tmp_path_factory.mktemp("undisturbed")
            run_ok(*command(data, done[processes], processes))
        return done[processes]

    return of


FAST = [("SIGTERM", 1, 4)]
# With these there is each signal, each number of processes and of workers; all meet in the nightly.
SLOW = [("SIGKILL", 2, 0), ("SIGINT", 2, 4), ("SIGUSR2", 4, 0)]


def how_often(case: tuple) -> tuple:
    """Return the marks of a case, by how often it should run."""
    if case in FAST:
        return ()
    return (pytest.mark.slow,) if case in SLOW else (pytest.mark.nightly,)


STOPS = [
    pytest.param(*case, marks=how_often(case))
    for case in itertools.product(
        ("SIGTERM", "SIGINT", "SIGUSR2", "SIGKILL"), (1, 2, 4), (0, 4)
    )
    if case[1:] != (4, 4)  # 20 processes
]  # fmt: skip


@pytest.mark.parametrize(("stop", "processes", "workers"), STOPS)
def test_a_stopped_run_goes_on_to_the_bit(data, undisturbed, tmp_path, stop, processes, workers):
    """Stopped in the middle of the second epoch; signals go to the loader workers, too."""
    options = command(data, tmp_path, processes, "--num_workers", str(workers))
    process = start(*options)
    wait_for(process, "saved after step 1 of epoch 2")
    signal_all(process, stop)
    _, said = process.communicate(timeout=60)
    again = [*options, "--resume", "auto"]
    if stop != "SIGKILL":
        (line,) = re.findall(f"stopped by {stop}; continue with (.*)", said)
        first, *words = shlex.split(line)
        if processes == 1:
            assert first == "python"
            again = words
        else:
            assert (first, words[0]) == ("torchrun", f"--nproc_per_node={processes}")
            assert words[1:] == again[-len(words[1:]) :]
        if processes == 1:  # torchrun has its own way to say that it got a signal
            assert process.returncode == EXIT_STOPPED and "Traceback" not in said, said
    checkpoint = load_checkpoint(str(tmp_path / "checkpoint.pth"))
    place = checkpoint["epoch"], checkpoint["step"]
    assert (0, 1) <= place <= (0, STEPS // processes) or place == (1, 0)  # it just ended the epoch
    resumed = run_ok(*again)
    assert f"resuming {tmp_path / 'checkpoint.pth'}" in resumed.stdout
    assert_same_run(tmp_path, undisturbed(processes))


@pytest.mark.slow
def test_images_before_the_step_are_not_read(data, tmp_path):
    """Resuming works although the images of the finished steps have been deleted."""
    copied = tmp_path / "data"
    shutil.copytree(data, copied)
    options = command(copied, tmp_path / "out", 1)
    process = start(*options)
    wait_for(process, "saved after step 3 of epoch 2")
    signal_all(process, "SIGTERM")
    process.communicate(timeout=60)
    sampler = torch.utils.data.DistributedSampler(range(16), 1, 0, seed=42)
    sampler.set_epoch(1)
    done = list(sampler)[: 2 * 3]
    for index in done:
        (copied / "train2017" / f"{index + 1:012}.jpg").unlink()
    assert "missing" not in run_ok(*options, "--resume", "auto", "--epochs", "2").stderr
    # The next epoch needs them.
    assert "image missing from" in error_line(*options, "--resume", "auto")


@pytest.mark.slow
def test_a_stop_in_the_evaluation(data, undisturbed, tmp_path):
    """The epoch is saved and its line of the log is not, or half: its evaluation is made up for."""
    shutil.copy(undisturbed(1) / "checkpoint0001.pth", tmp_path / "checkpoint.pth")
    lines = (undisturbed(1) / "log.txt").read_text().splitlines(keepends=True)
    (tmp_path / "log.txt").write_text(lines[0] + lines[1][:100])
    run_ok(*command(data, tmp_path, 1, "--resume", "auto"))
    assert_same_run(tmp_path, undisturbed(1))
    assert list(tmp_path.glob("earlier_run_*")) == []


# ---- launchers ----


@pytest.mark.slow
def test_torchrun_restarts_what_was_killed(data, undisturbed, tmp_path):
    options = command(data, tmp_path, 2, "--resume", "auto")
    process = start(*options[:2], "--max_restarts=3", *options[2:])
    wait_for(process, "saved after step 1 of epoch 2")
    workers = subprocess.run(
        ["pgrep", "--parent", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(workers[1]), signal.SIGKILL)
    output, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert f"resuming {tmp_path / 'checkpoint.pth'}" in output
    assert "process 1 ended without a word" in said
    assert_same_run(tmp_path, undisturbed(2))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["static", "c10d"])
def test_two_launchers_are_one_run(data, undisturbed, tmp_path, backend):
    """As on two nodes, each of which starts one process."""
    port = free_port()
    meeting = {
        "static": ["--master_addr=127.0.0.1", f"--master_port={port}"],
        "c10d": ["--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=1",
                 "--local_addr=127.0.0.1"],
    }[backend]  # fmt: skip
    launchers = [
        start("-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={node}",
              "--nproc_per_node=1", *meeting, *command(data, tmp_path, 1))
        for node in (0, 1)
    ]  # fmt: skip
    told = [launcher.communicate(timeout=120) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], told
    assert "2 processes over gloo" in "".join(output for output, _ in told)
    assert_same_run(tmp_path, undisturbed(2))


# ---- what is said, and what may change ----


def test_changed_options_take_effect_and_are_said(data, undisturbed, tmp_path):
    """The schedule is that of a run with the new options from its start."""
    shutil.copytree(undisturbed(1), tmp_path, dirs_exist_ok=True)
    result = run_ok(
        *command(data, tmp_path, 1, "--resume", "auto", "--epochs", "4", "--lr", "1e-4",
                 "--lr_drop", "3", "--weight_decay", "0.5")
    )  # fmt: skip
    said = next(line for line in result.stdout.splitlines() if line.startswith("changed"))
    for change in ("--lr 0.001 -> 0.0001", "--lr_drop 2 -> 3", "--epochs 3 -> 4",
                   "--weight_decay 0.0001 -> 0.5"):  # fmt: skip
        assert change in said
    assert said.count("->") == 4
    last = json.loads((tmp_path / "log.txt").read_text().splitlines()[-1])
    assert last["epoch"] == 3 and last["train_lr"] == pytest.approx(1e-5)
    groups = load_checkpoint(str(tmp_path / "checkpoint.pth"))["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([1e-5, 1e-4])
    assert [group["weight_decay"] for group in groups] == [0.5, 0.5]


@pytest.mark.slow
def test_other_terms_of_the_loss_in_the_middle_of_an_epoch(data, tmp_path):
    """Their means are of the steps since, the others' are gone."""
    process = start(*command(data, tmp_path, 1))
    wait_for(process, "saved after step 1 of epoch 1")
    signal_all(process, "SIGTERM")
    process.communicate(timeout=60)
    result = run_ok(*command(data, tmp_path, 1, "--resume", "auto", "--no_aux_loss"))
    assert "--aux_loss True -> False" in result.stdout
    assert "train_loss_ce_0" not in result_of(tmp_path)[1][0]


def test_resume_auto_starts_where_nothing_is_and_says_when_all_is_done(data, undisturbed, tmp_path):
    shutil.copytree(undisturbed(1), tmp_path, dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    result = run_ok(*command(data, tmp_path, 1, "--resume", "auto"))
    assert "has all of its 3 epochs; nothing to do at --epochs 3" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    result = run_ok(*command(data, tmp_path / "new", 1, "--resume", "auto", "--epochs", "1"))
    assert "nothing to resume yet" in result.stdout


@pytest.mark.slow
def test_resume_auto_passes_over_damaged_files(data, undisturbed, tmp_path):
    shutil.copytree(undisturbed(1), tmp_path, dirs_exist_ok=True)
    content = bytearray((tmp_path / "checkpoint.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "checkpoint.pth").write_bytes(content)
    result = run_ok(*command(data, tmp_path, 1, "--resume", "auto"))
    assert "checkpoint.pth: not a whole checkpoint" in result.stdout
    assert f"resuming {tmp_path / 'checkpoint0001.pth'}" in result.stdout  # before the drop
    assert (tmp_path / "earlier_run_1" / "checkpoint.pth").read_bytes() == content
    assert_same_run(tmp_path, undisturbed(1))
    for path in tmp_path.glob("checkpoint*.pth"):
        path.write_bytes(path.read_bytes()[:-100])
    files = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    said = error_line(*command(data, tmp_path, 1, "--resume", "auto"))
    assert said.startswith("error: --resume auto: none of the checkpoints")
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == files


@pytest.mark.slow
def test_going_back_keeps_the_later_part(data, undisturbed, tmp_path):
    """Resuming an earlier checkpoint of the folder: what came after it is moved, not lost."""
    shutil.copytree(undisturbed(1), tmp_path, dirs_exist_ok=True)
    later = (tmp_path / "checkpoint.pth").read_bytes()
    log = (tmp_path / "log.txt").read_text()
    run_ok(*command(data, tmp_path, 1, "--resume", str(tmp_path / "checkpoint0001.pth")))
    kept = list(tmp_path.glob("earlier_run_*"))
    assert later in [path.read_bytes() for folder in kept for path in folder.glob("*.pth")]
    assert log in [path.read_text() for folder in kept for path in folder.glob("log.txt")]
    assert_same_run(tmp_path, undisturbed(1))


@pytest.mark.slow
def test_another_number_of_processes_goes_on_and_says_so(data, undisturbed, tmp_path):
    options = command(data, tmp_path, 2)
    process = start(*options)
    wait_for(process, "saved after step 2 of epoch 2")
    signal_all(process, "SIGTERM")
    process.communicate(timeout=60)
    checkpoint = load_checkpoint(str(tmp_path / "checkpoint.pth"))
    result = run_ok(*command(data, tmp_path, 1, "--resume", "auto"))
    assert "the checkpoint is of 2 process(es), this run has 1" in result.stdout
    first = next(line for line in result.stdout.splitlines() if "saved after step" in line)
    done = 2 * checkpoint["step"] if checkpoint["epoch"] == 0 else STEPS
    step, epoch = (1, 3) if done == STEPS else (done + 1, 2)  # it may just have ended the epoch
    assert f"saved after step {step} of epoch {epoch}/3" in first
    result_of(tmp_path)
