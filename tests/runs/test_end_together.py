"""The processes of a run end together: when one dies or fails, gets a signal or loses its data."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import MAIN, QUIET, ROOT, TINY_RUN, free_port
from tests.helpers.data import make_shapes
from tests.helpers.forks import default_signals
from util.checkpoint import load_checkpoint

RUN = [*TINY_RUN, "--batch_size", "1", "--epochs", "500", "--checkpoint_every", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "shapes"
    return make_shapes(out, "--train", "60", "--val", "2", "--size", "64")


def start_all(data: Path, *options: str, processes: int = 2) -> list[subprocess.Popen]:
    """Start the processes of a run without a launcher, which would end them together."""
    common = {
        **os.environ, **QUIET, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, MAIN, *RUN, "--coco_path", str(data), *options], cwd=ROOT, text=True,
            env={**common, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=default_signals,
        )
        for rank in range(processes)
    ]  # fmt: skip


def wait_for_training(processes: list[subprocess.Popen]) -> None:
    for line in processes[0].stdout:
        if line.startswith("epoch 1/"):
            return
    raise AssertionError(processes[0].stderr.read())


def ends(processes: list[subprocess.Popen], within: float = 100) -> list[tuple[int, str]]:
    """Return exit code and stderr of each process."""
    deadline = time.monotonic() + within
    try:
        told = [p.communicate(timeout=max(deadline - time.monotonic(), 1))[1] for p in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, said) for process, said in zip(processes, told, strict=True)]


@pytest.mark.parametrize(
    "victim", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_killed_process_ends_the_others(data, victim):
    processes = start_all(data, processes=3)
    wait_for_training(processes)
    processes[victim].kill()
    results = ends(processes)
    assert results[victim][0] == -signal.SIGKILL
    others = [result for rank, result in enumerate(results) if rank != victim]
    said = "".join(text for _, text in others)
    assert [code for code, _ in others] == [1, 1], said
    assert f"process {victim} ended without a word" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_error_of_one_process_is_shown_by_the_main_one(data, tmp_path):
    """An image that only the second process meets."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("annotations", "val2017"):
        (folder / name).symlink_to(data / name)
    (folder / "train2017").mkdir()
    for image in (data / "train2017").iterdir():
        (folder / "train2017" / image.name).symlink_to(image)
    sampler = torch.utils.data.DistributedSampler(range(60), 2, 1, seed=42)
    name = f"{list(sampler)[3] + 1:012}.jpg"
    (folder / "train2017" / name).unlink()
    main, other = ends(start_all(folder), within=200)
    assert (main[0], other[0]) == (1, 1)
    line = (
        f"{folder / 'annotations' / 'instances_train2017.json'}: image {int(name[:12])}: {name}: "
    )
    assert other[1].startswith(f"error: {line}") and other[1].count("\n") == 1
    assert main[1].startswith(f"error: process 1: {line}") and main[1].count("\n") == 1


@pytest.mark.slow
def test_a_stop_signal_to_one_process_stops_all(data, tmp_path):
    processes = start_all(data, "--output_dir", str(tmp_path))
    wait_for_training(processes)
    processes[1].send_signal(signal.SIGUSR2)
    main, other = ends(processes)
    assert main[0] == other[0] == 75
    last = main[1].strip().splitlines()[-1]
    assert last.startswith("stopped by SIGUSR2; continue with ") and last.endswith("--resume auto")
    assert "stopped" not in other[1]
    assert len(load_checkpoint(str(tmp_path / "checkpoint.pth"))["processes"]) == 2


@pytest.mark.slow
def test_a_stop_in_an_evaluation(tmp_path):
    """Of three processes, which have different numbers of images; the resumed run evaluates."""
    data = make_shapes(tmp_path / "data", "--train", "3", "--val", "400", "--size", "64")
    options = ["--output_dir", str(tmp_path / "out"), "--epochs", "1"]
    processes = start_all(data, *options, processes=3)
    wait_for_training(processes)
    processes[2].send_signal(signal.SIGUSR2)
    results = ends(processes)
    assert [code for code, _ in results] == [75, 75, 75]
    checkpoint = load_checkpoint(str(tmp_path / "out" / "checkpoint.pth"))
    assert checkpoint["epoch"] == 0 and checkpoint["pending"] and checkpoint["log"] == []
    assert not (tmp_path / "out" / "log.txt").exists()
    results = ends(start_all(data, *options, "--resume", "auto", processes=3), within=200)
    assert [code for code, _ in results] == [0, 0, 0]
    (row,) = (tmp_path / "out" / "log.txt").read_text().splitlines()
    assert '"test_coco_eval_bbox"' in row and '"epoch": 0' in row


@pytest.mark.slow
def test_a_stop_without_a_folder_says_that_nothing_was_saved(data):
    processes = start_all(data, processes=1)
    wait_for_training(processes)
    processes[0].send_signal(signal.SIGTERM)
    output, said = processes[0].communicate(timeout=30)
    assert processes[0].returncode == 128 + signal.SIGTERM
    assert "without --output_dir nothing was saved" in said and "saved after" not in output


@pytest.mark.slow
@pytest.mark.parametrize("what", ["output", "terminal", "worker"])
def test_a_run_saves_itself_when_something_around_it_ends(data, tmp_path, what):
    """The reader of its output, its terminal with all streams, or a loader worker."""
    options = ["--output_dir", str(tmp_path), "--num_workers", "1"]
    (process,) = start_all(data, *options, "--checkpoint_every", "0.0001", processes=1)
    for line in process.stdout:
        if line.startswith("saved after step 2"):
            break
    if what == "worker":
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        os.kill(int(children.split()[0]), signal.SIGKILL)
        said = process.communicate(timeout=60)[1].splitlines()
        assert process.returncode == 1 and said[-1].endswith(" --resume auto")
        assert said[-1].startswith("error: a loader worker was killed, as") and len(said) == 2
    else:
        process.stdout.close()
        if what == "terminal":
            process.stderr.close()
            process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 75
    assert load_checkpoint(str(tmp_path / "checkpoint.pth"))["step"] >= 2


@pytest.mark.slow
def test_a_loss_that_breaks_stops_all_processes_at_once(data, tmp_path):
    """Also the one whose own loss is finite; the checkpoint before stays."""
    options = ["--output_dir", str(tmp_path), "--lr", "1e30", "--clip_max_norm", "0"]
    main, other = ends(start_all(data, *options, "--checkpoint_every", "0.0001"), within=200)
    assert (main[0], other[0]) == (1, 1)
    assert main[1].startswith("error: the ") and main[1].count("\n") == 1
    assert "is not finite on images" in main[1] and "of process" in main[1]
    assert "loss_ce" in main[1] and "weights are those of the step before" in main[1]
    assert other[1] == ""
    checkpoint = load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert all(value.isfinite().all() for value in checkpoint["model"].values())
