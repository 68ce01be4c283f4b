"""The tables beside log.txt, and TensorBoard's events: the same numbers, each epoch once."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from detection_task import COCO_NUMBERS, DETECTION
from tests.helpers.commands import MAIN, TINY_RUN, error_line, run_ok
from tests.helpers.runs import assert_same_run, read_log, signal_all, start, wait_for
from training.log import flat, read_table
from training.output_dir import OutputDir

BOARD = {"tensorboard": True, "log_format": DETECTION.log}
QUALITY = {"pq": 0.5, "sq": 0.75, "rq": 0.625, "n": 8}
ROWS = [
    {"train_loss": 2.0, "train_loss_ce_0_unscaled": 1.5, "epoch": 0, "n_parameters": 7},
    {
        "train_loss": 0.1 + 0.2, "test_coco_eval_bbox": [i / 16 for i in range(11)] + [-1.0],
        "test_coco_eval_masks": [0.5] * 12, "test_PQ_all": QUALITY,
        "test_coco_eval_bbox_per_class": {"cat": [0.5] * 5}, "epoch": 1, "n_parameters": 7,
    },
    {"train_loss": 1e-9, "epoch": 2, "n_parameters": 7},
]  # fmt: skip


def events(out) -> dict[str, dict[int, float]]:
    """What TensorBoard shows: values by tag and step; no step is there twice."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    found = {tag: accumulator.Scalars(tag) for tag in accumulator.Tags()["scalars"]}
    values = {tag: {one.step: one.value for one in events} for tag, events in found.items()}
    assert {tag: len(events) for tag, events in found.items()} == {
        tag: len(points) for tag, points in values.items()
    }
    return values


def written(out, rows, **options) -> OutputDir:
    """The folder of a new run with these rows."""
    folder = OutputDir(out, log_format=DETECTION.log, **options)
    folder.continue_run("", -1, [])
    for row in rows:
        folder.save_speed(row["epoch"], 30, 1.5 + row["epoch"])
        folder.append_log(row)
    return folder


# ---- the numbers of a row ----


def test_numbers_of_a_row_have_a_name_each():
    first, middle, _ = (flat(row, DETECTION.log) for row in ROWS)
    assert middle["epoch"] == 1 and middle["train_loss"] == ROWS[1]["train_loss"]
    assert middle["test_coco_eval_bbox_AP"] == 0
    assert middle["test_coco_eval_bbox_AP50"] == 1 / 16
    assert middle["test_coco_eval_bbox_AP_small"] == 3 / 16
    assert middle["test_coco_eval_bbox_AR_large"] == -1
    assert middle["test_PQ_all_pq"] == 0.5 and middle["test_PQ_all_n"] == 8
    assert "test_PQ_all_pq" not in first
    # Of another task a list has no names.
    assert "test_coco_eval_bbox_AP" not in flat(ROWS[1])
    assert not [name for name in middle if "per_class" in name]
    assert len([name for name in middle if name.startswith("test_coco_eval_masks_")]) == 12


def test_names_are_those_of_cocos_table():
    from datasets.coco_eval import format_stats

    lines = format_stats([i / 100 for i in range(12)]).splitlines()
    for i, (name, line) in enumerate(zip(COCO_NUMBERS, lines, strict=True)):
        assert line.endswith(f"{i / 100:.3f}") and f"({name[:2]})" in line
        area = name.partition("_")[2] or "all"
        assert f"area={area:>6}" in line
        number = name[2:] if name[2:].isdigit() else ""
        if name.startswith("AR"):
            assert f"maxDets={number or '100':>3}" in line
        else:
            assert f"IoU=0.{number} " in line if number else "IoU=0.50:0.95" in line


def test_tables_of_a_run_that_goes_back(tmp_path):
    """They have the epochs of log.txt, whatever a kill or a later part of the run left."""
    written(tmp_path, ROWS)
    (tmp_path / "checkpoint.pth").touch()
    speed = (tmp_path / "speed.csv").read_text()
    OutputDir(tmp_path).continue_run(str(tmp_path / "checkpoint.pth"), 2, ROWS)
    assert (tmp_path / "speed.csv").read_text() == speed
    assert not list(tmp_path.glob("earlier_run_*"))

    folder = OutputDir(tmp_path)
    folder.continue_run(str(tmp_path / "checkpoint.pth"), 0, [])
    assert [row["epoch"] for row in read_table(tmp_path / "speed.csv")] == [0]
    assert (tmp_path / "earlier_run_1" / "speed.csv").read_text() == speed
    folder.save_speed(1, 10, 2.0)
    assert [row["train_images_per_second"] for row in read_table(tmp_path / "speed.csv")] == [20, 5]


def test_damaged_tables_are_no_obstacle(tmp_path):
    (tmp_path / "speed.csv").write_bytes(b'epoch,train_seconds\n1,"2\0\n\xff,3\n7')
    OutputDir(tmp_path).continue_run(str(tmp_path / "checkpoint.pth"), 5, ROWS)
    assert read_table(tmp_path / "speed.csv") == [{"epoch": 1}]
    (tmp_path / "speed.csv").write_text("epoch,train_images\n1,1e400\n2,nan\n3,7\n" + "9" * 5000)
    assert read_table(tmp_path / "speed.csv") == [
        {"epoch": 1}, {"epoch": 2}, {"epoch": 3, "train_images": 7}
    ]  # fmt: skip


# ---- TensorBoard ----


def test_tensorboard_has_the_numbers_by_group(tmp_path):
    written(tmp_path, ROWS, tensorboard=True)
    found = events(tmp_path)
    assert found["train/loss"] == pytest.approx({0: 2, 1: 0.3, 2: 1e-9})
    assert found["train_terms/loss_ce_0_unscaled"] == {0: 1.5}
    assert found["boxes/AP75"] == {1: 2 / 16} and found["masks/AP_large"] == {1: 0.5}
    assert found["PQ/all_sq"] == {1: 0.75}
    assert found["speed/images_per_second"] == pytest.approx({0: 20, 1: 12, 2: 30 / 3.5}, rel=1e-3)
    assert found["run/n_parameters"] == {0: 7, 1: 7, 2: 7}
    assert "boxes/AR_large" not in found  # -1: there is no such object
    assert not [tag for tag in found if "class" in tag or "epoch" in tag]


def test_tensorboard_of_a_run_that_goes_on(tmp_path):
    """No step twice; none is missing where the events of the last epoch were lost."""
    written(tmp_path, ROWS, tensorboard=True)
    folder = OutputDir(tmp_path, **BOARD)
    other = {**ROWS[1], "train_loss": 5.0}
    folder.continue_run(str(tmp_path / "checkpoint.pth"), 0, [])
    folder.append_log(other)
    assert events(tmp_path)["train/loss"] == {0: 2, 1: 5}

    shutil.rmtree(tmp_path / "tensorboard")  # --tensorboard is new
    OutputDir(tmp_path, **BOARD).continue_run(str(tmp_path / "checkpoint.pth"), 1, [])
    assert events(tmp_path)["train/loss"] == {0: 2, 1: 5}
    assert events(tmp_path)["speed/images_per_second"] == {0: 20}

    (tmp_path / "log.txt").open("a").write(json.dumps(ROWS[2]) + "\n")  # and no event of it
    OutputDir(tmp_path, **BOARD).continue_run(str(tmp_path / "checkpoint.pth"), 2, [])
    assert events(tmp_path)["train/loss"] == pytest.approx({0: 2, 1: 5, 2: 1e-9})


def test_a_new_run_moves_the_tables_of_an_earlier_one(tmp_path):
    written(tmp_path, ROWS, tensorboard=True)
    written(tmp_path, ROWS[:1], tensorboard=True)
    assert len(events(tmp_path)["train/loss"]) == 1
    assert len(events(tmp_path / "earlier_run_1")["train/loss"]) == 3
    assert len(read_table(tmp_path / "earlier_run_1" / "speed.csv")) == 3
    assert len(read_table(tmp_path / "speed.csv")) == 1


def test_tensorboard_is_refused_before_anything_is_read(shapes, tmp_path):
    options = [MAIN, *TINY_RUN, "--coco_path", shapes, "--tensorboard"]
    assert error_line(*options) == "error: --tensorboard needs an --output_dir to write to"
    missing = "import sys; sys.modules['tensorboard'] = None; sys.path.insert(0, '.'); import main"
    result = subprocess.run(
        [sys.executable, "-c", f"{missing}; main.run_command(main.cli)", *map(str, options[1:]),
         "--output_dir", str(tmp_path / "out")],
        cwd=MAIN.rpartition("/")[0], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "`pip install tensorboard` installs it" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


# ---- whole runs ----


@pytest.mark.slow
def test_a_stopped_run_has_the_tables_of_one_that_was_not(shapes, tmp_path):
    """Events of each epoch once; a speed of each epoch."""
    options = [
        MAIN, *TINY_RUN, "--coco_path", str(shapes), "--epochs", "2", "--eval_every", "2",
        "--checkpoint_every", "0.0001", "--tensorboard", "--output_dir",
    ]  # fmt: skip
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run_ok(*options, whole)
    process = start(*options, str(stopped))
    wait_for(process, "saved after step 1 of epoch 2")
    signal_all(process, signal.SIGTERM.name)
    process.communicate(timeout=60)
    assert "changed since" not in run_ok(*options, stopped, "--resume", "auto").stdout
    assert_same_run(stopped, whole)
    for name, points in events(whole).items():
        if not name.startswith("speed/"):
            assert events(stopped)[name] == points
    last = read_log(whole)[-1]
    assert events(whole)["boxes/AP"] == {1: pytest.approx(last["test_coco_eval_bbox"][0])}
    assert events(whole)["train/lr"] == pytest.approx({0: 1e-4, 1: 1e-4})
    assert [row["train_images"] for row in read_table(whole / "speed.csv")] == [16, 16]
    rest = read_table(stopped / "speed.csv")[-1]
    assert 0 < rest["train_images"] < 16 and rest["train_images"] % 2 == 0
    assert rest["train_seconds"] > 0
