"""Whole runs of main.py in a process of their own: train, evaluate, resume."""

import argparse
import json
import os
import pathlib
import sys

import pytest
import torch

from tests.helpers.commands import MAIN, RPE, TINY_RUN, run_ok
from tests.helpers.runs import classes, read_log, table
from util import VERSION
from util.checkpoint import load_checkpoint


def test_what_a_run_writes(trained):
    out, stdout = trained
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert files == [
        ".lock", "args.json", "checkpoint.pth", "checkpoint0001.pth", "checkpoint_best.pth",
        "eval/000.pth", "eval/latest.pth", "log.txt", "speed.csv",
    ]  # fmt: skip
    log = read_log(out)
    assert [epoch["epoch"] for epoch in log] == [0, 1]
    for epoch in log:
        assert len(epoch["test_coco_eval_bbox"]) == 12
        assert epoch["n_parameters"] > 4.9e6
        for split in ("train", "test"):
            for name in ("loss", "class_error", "loss_ce", "loss_bbox_0", "loss_giou_unscaled",
                         "cardinality_error_unscaled"):  # fmt: skip
                assert isinstance(epoch[f"{split}_{name}"], float)
    assert log[0]["train_lr"] == pytest.approx(1e-3)
    assert log[1]["train_loss"] < log[0]["train_loss"]
    assert stdout.count("Classes, IoU metric") == 1  # not after each epoch
    assert "device: cpu" in stdout and stdout.count("Average Precision") == 6


def test_checkpoint_holds_what_others_expect(trained):
    out, _ = trained
    checkpoint = load_checkpoint(str(out / "checkpoint.pth"))
    assert {"model", "optimizer", "lr_scheduler", "epoch", "args"} < set(checkpoint)
    assert checkpoint["step"] == 0 and checkpoint["version"] == VERSION
    assert checkpoint["classes"] == {
        1: "disc", 2: "square", 3: "triangle", 4: "star", 5: "plus"
    }  # fmt: skip
    assert checkpoint["epoch"] == 1
    assert isinstance(checkpoint["args"], argparse.Namespace)
    assert checkpoint["args"].enc_rpe2d == RPE
    groups = checkpoint["optimizer"]["param_groups"]
    assert len(groups) == 2
    assert groups[0]["lr"] == pytest.approx(1e-4)  # dropped after the last epoch


def test_evaluation_repeats_the_numbers(trained, shapes, tmp_path):
    """Also with the defaults of an ImageNet backbone: nothing is fetched, nothing differs."""
    out, _ = trained
    for i, weights in enumerate(("none", "imagenet")):
        result = run_ok(
            MAIN, *TINY_RUN, "--coco_path", shapes, "--eval", "--resume", out / "checkpoint.pth",
            "--output_dir", tmp_path / str(i), "--backbone_weights", weights,
        )  # fmt: skip
        wanted = read_log(out)[-1]["test_coco_eval_bbox"]
        assert table(result.stdout) == pytest.approx(wanted, abs=6e-4)
        assert classes(result.stdout) == classes(trained[1])
        assert [file.name for file in (tmp_path / str(i)).iterdir()] == ["eval.pth"]


def test_evaluation_of_untrained_weights_says_so(shapes):
    result = run_ok(MAIN, *TINY_RUN, "--coco_path", shapes, "--eval")
    assert "not trained" in result.stdout and len(table(result.stdout)) == 12


def test_a_run_goes_on_and_says_when_it_is_finished(trained, shapes, tmp_path):
    out, _ = trained
    options = [MAIN, *TINY_RUN, "--coco_path", shapes, "--output_dir", tmp_path, "--batch_size",
               "4", "--resume", out / "checkpoint.pth"]  # fmt: skip
    result = run_ok(*options, "--epochs", "2")
    assert "nothing to do at --epochs 2" in result.stdout
    assert not (tmp_path / "checkpoint.pth").exists()
    result = run_ok(*options, "--epochs", "3")
    assert "--epochs 2 -> 3" in result.stdout
    assert read_log(tmp_path)[:2] == read_log(out)  # the checkpoint knows them
    assert [epoch["epoch"] for epoch in read_log(tmp_path)] == [0, 1, 2]


def test_going_on_elsewhere_moves_what_is_there(trained, shapes, tmp_path):
    """A run resumed in another folder moves the run that is there aside, but not its own."""
    out, _ = trained
    (tmp_path / "log.txt").write_text("another run")
    run_ok(
        MAIN, *TINY_RUN, "--coco_path", shapes, "--output_dir", tmp_path, "--epochs", "3",
        "--batch_size", "4", "--resume", out / "checkpoint.pth",
    )  # fmt: skip
    assert (tmp_path / "earlier_run_1" / "log.txt").read_text() == "another run"
    run_ok(
        MAIN, *TINY_RUN, "--coco_path", shapes, "--output_dir", tmp_path, "--epochs", "4",
        "--batch_size", "4", "--resume", tmp_path / "checkpoint.pth",
    )  # fmt: skip
    assert [epoch["epoch"] for epoch in read_log(tmp_path)] == [0, 1, 2, 3]
    assert [path.name for path in tmp_path.glob("earlier_run_*")] == ["earlier_run_1"]


@pytest.mark.slow
def test_an_optimizer_state_of_2021_goes_on(trained, shapes, tmp_path):
    """PyTorch wrote fewer keys then, and steps as plain numbers."""
    out, _ = trained
    checkpoint = load_checkpoint(str(out / "checkpoint.pth"))
    published = ("model", "optimizer", "lr_scheduler", "epoch", "args")
    checkpoint = {name: checkpoint[name] for name in published}
    torch.save(checkpoint, tmp_path / "today.pth")
    keys = ("lr", "betas", "eps", "weight_decay", "amsgrad", "initial_lr", "params")
    optimizer = checkpoint["optimizer"]
    optimizer["param_groups"] = [{k: g[k] for k in keys} for g in optimizer["param_groups"]]
    for state in optimizer["state"].values():
        state["step"] = int(state["step"])
    torch.save(checkpoint, tmp_path / "2021.pth", _use_new_zipfile_serialization=False)
    runs = []
    for i, source in enumerate((tmp_path / "today.pth", tmp_path / "2021.pth")):
        run_ok(
            MAIN, *TINY_RUN, "--coco_path", shapes, "--output_dir", tmp_path / str(i), "--epochs",
            "3", "--batch_size", "4", "--resume", source,
        )  # fmt: skip
        runs.append(read_log(tmp_path / str(i))[0])
    assert runs[0]["train_loss"] == pytest.approx(runs[1]["train_loss"], rel=1e-4)


def test_the_same_seed_gives_the_same_run(trained, shapes, tmp_path):
    """And the number of loader workers plays no part."""
    out, _ = trained
    run_ok(
        MAIN, *TINY_RUN, "--coco_path", shapes, "--output_dir", tmp_path, "--epochs", "2",
        "--lr_drop", "2", "--batch_size", "4", "--lr", "1e-3", "--lr_backbone", "1e-3",
        "--num_workers", "2",
    )  # fmt: skip
    first, second = (load_checkpoint(str(p / "checkpoint.pth")) for p in (out, tmp_path))
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name


def test_a_new_run_moves_an_earlier_one_aside(trained, shapes, tmp_path):
    for name in ("checkpoint.pth", "detections.png"):
        (tmp_path / name).write_text("precious")
    result = run_ok(
        MAIN, *TINY_RUN, "--coco_path", shapes, "--output_dir", tmp_path, "--epochs", "1",
        "--eval_every", "5",
    )  # fmt: skip
    assert "earlier_run_1" in result.stdout
    for name in ("checkpoint.pth", "detections.png"):
        assert (tmp_path / "earlier_run_1" / name).read_text() == "precious"
    assert not (tmp_path / "detections.png").exists()  # of the earlier run, it would mislead
    assert "test_coco_eval_bbox" in read_log(tmp_path)[0]  # the last epoch is always evaluated


def test_a_submitit_checkpoint_can_be_evaluated(trained, shapes, tmp_path):
    """The published launcher leaves a PosixPath in the arguments; both file formats load."""
    out, _ = trained
    checkpoint = load_checkpoint(str(out / "checkpoint.pth"))
    checkpoint["args"].output_dir = pathlib.PosixPath("/checkpoint/someone/jobs/1")
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pth"
        torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
        result = run_ok(
            MAIN, *TINY_RUN, "--coco_path", shapes, "--lr_drop", "100", "--epochs", "150",
            "--eval", "--resume", path,
        )  # fmt: skip
        assert table(result.stdout) == pytest.approx(
            read_log(out)[-1]["test_coco_eval_bbox"], abs=6e-4
        )


def test_show_run_draws_and_prints(trained, shapes):
    out, stdout = trained
    result = run_ok("tools/show_run.py", out, "--images", "4", "--threshold", "0")
    assert table(result.stdout) == table(stdout)
    assert classes(result.stdout) == classes(stdout)
    logged = read_log(out)[-1]["test_coco_eval_bbox_per_class"]
    truth = json.loads((shapes / "annotations" / "instances_val2017.json").read_text())
    for category in truth["categories"]:
        count, ap, *_ = classes(stdout)[category["name"]]
        assert int(count) == sum(a["category_id"] == category["id"] for a in truth["annotations"])
        assert ap == ("-" if count == "0" else f"{logged[category['name']][0]:.3f}")
    lines = [line for line in stdout.splitlines() if "Average" in line][-12:]
    assert [line for line in result.stdout.splitlines() if "Average" in line] == lines
    for name in ("curves.png", "detections.png"):
        assert (out / name).stat().st_size > 5000
        assert str(out / name) in result.stdout


def test_progress_in_a_log_is_plain_lines(trained):
    _, stdout = trained
    lines = [line for line in stdout.splitlines() if line.startswith("epoch 1/2  ")]
    assert len(lines) == 2 and "  4/4  loss " in lines[0] and "\r" not in stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_progress_on_a_terminal_is_a_bar(trained, shapes):
    import fcntl
    import pty
    import struct
    import subprocess
    import termios

    out, _ = trained
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    process = subprocess.Popen(
        [sys.executable, MAIN, *TINY_RUN, "--coco_path", str(shapes), "--eval", "--resume",
         str(out / "checkpoint.pth")],
        stderr=follower, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    assert process.wait() == 0
    assert b"eval |" in shown and b"loss" in shown
