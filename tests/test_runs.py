"""Whole runs of main.py in processes of their own: train, evaluate, resume, in parallel."""

import argparse
import json
import os
import pathlib
import sys
from pathlib import Path

import pytest
import torch
from conftest import MAIN, RPE, TINY_RUN, error_line, free_port, make_shapes, run_ok

from checkpoints.compatibility import load_weights
from engine import evaluate, train_one_epoch
from main import build_loaders, build_optimizer, get_args_parser
from models import build_model
from util import VERSION
from util import distributed as dist
from util.checkpoint import load_checkpoint
from util.errors import UserError

LAUNCHERS = {
    "launch": ["-m", "torch.distributed.launch", "--nproc_per_node=2", "--use_env"],
    "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node=2"],
}


def launch(name, *options):
    """Two processes of main.py."""
    first, *rest = [*LAUNCHERS[name], f"--master_port={free_port()}"]
    return run_ok(first, *rest, MAIN, *TINY_RUN, *options)


def read_log(out):
    return [json.loads(line) for line in (out / "log.txt").read_text().splitlines()]


def table(stdout):
    """The 12 numbers of the last COCO table."""
    lines = [line for line in stdout.splitlines() if "Average" in line]
    return [float(line.rsplit("=", 1)[1]) for line in lines[-12:]]


def classes(stdout):
    """The table of classes: the words of each row by name."""
    rows = stdout.rpartition("Classes, IoU metric: bbox\n")[2].splitlines()[1:6]
    return {name: words for name, *words in map(str.split, rows)}


def precision(path):
    """pycocotools' precision array of an eval file."""
    return torch.load(path, weights_only=False)["precision"]


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """Two epochs in one process; on the second the learning rate drops."""
    out = tmp_path_factory.mktemp("run") / "new" / "folder"
    result = run_ok(
        MAIN, *TINY_RUN, "--coco_path", shapes, "--output_dir", out, "--epochs", "2",
        "--lr_drop", "2", "--batch_size", "4", "--lr", "1e-3", "--lr_backbone", "1e-3",
    )  # fmt: skip
    return out, result.stdout


def test_what_a_run_writes(trained):
    out, stdout = trained
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert files == [
        ".lock", "checkpoint.pth", "checkpoint0001.pth", "checkpoint_best.pth", "eval/000.pth",
        "eval/latest.pth", "log.csv", "log.txt", "speed.csv",
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
    assert "device: cpu" in stdout and stdout.count("Average Precision") == 12


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
    """Only a run's own folder is gone on with; another run in the folder is not written over."""
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


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["launch", "torchrun"])
def test_two_processes(launcher, shapes, tmp_path):
    """Train with two, then evaluate with two and with one: every image counts once."""
    common = ["--coco_path", str(shapes), "--num_workers", "1"]
    launch(launcher, *common, "--output_dir", tmp_path, "--epochs", "2", "--lr", "1e-3",
           "--lr_backbone", "1e-3", "--lr_drop", "100")  # fmt: skip
    log = read_log(tmp_path)
    assert [epoch["epoch"] for epoch in log] == [0, 1]
    checkpoint = tmp_path / "checkpoint.pth"
    evaluation = [*common, "--eval", "--resume", checkpoint, "--epochs", "150", "--lr_drop", "100"]
    two = launch(launcher, *evaluation, "--output_dir", tmp_path / "two")
    one = run_ok(MAIN, *TINY_RUN, *evaluation, "--output_dir", tmp_path / "one")
    assert "2 processes over gloo" in two.stdout
    assert table(two.stdout) == table(one.stdout)
    left, right = (precision(tmp_path / name / "eval.pth") for name in ("one", "two"))
    assert abs(left - right).max() <= 1e-6
    assert abs(left.mean() - right.mean()) <= 1e-6


def test_more_processes_than_validation_images(trained, tmp_path):
    out, _ = trained
    data = make_shapes(tmp_path / "data", "--train", "1", "--val", "1", "--size", "80")
    result = launch("torchrun", "--coco_path", data, "--eval", "--resume", out / "checkpoint.pth")
    assert len(table(result.stdout)) == 12


def evaluate_as(rank: int, world_size: int, port: int, options: list[str], out: Path) -> None:
    """One of several processes that evaluate together; each writes what it was told."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    args = get_args_parser().parse_args(options)
    dist.init_distributed_mode(args, torch.device("cpu"))
    loader = build_loaders(args)[1]
    model, criterion, postprocessors = build_model(args)
    load_weights(model, load_checkpoint(args.resume), args.resume)
    stats, _ = evaluate(
        model, criterion, postprocessors, loader, loader.dataset.annotations, torch.device("cpu")
    )
    (out / f"{world_size}-{rank}.json").write_text(json.dumps(stats))
    dist.shut_down()


@pytest.mark.slow
def test_losses_of_evaluation_are_those_of_one_process(trained, shapes, tmp_path):
    """Also where processes have different numbers of images: 13 on 1, 2 and 3."""
    out, _ = trained
    options = [*TINY_RUN, "--coco_path", str(shapes), "--eval", "--batch_size", "1"]
    options += ["--resume", str(out / "checkpoint.pth")]
    for world_size in (1, 2, 3):
        torch.multiprocessing.spawn(
            evaluate_as, (world_size, free_port(), options, tmp_path), nprocs=world_size
        )
    told = {path.stem: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert len(told) == 6
    alone = dict(told["1-0"])
    classes = alone.pop("coco_eval_bbox_per_class")
    assert alone["loss"] > 0 and set(classes) == {"disc", "square", "triangle", "star", "plus"}
    for stats in told.values():
        assert stats.pop("coco_eval_bbox_per_class") == classes
        assert stats.keys() == alone.keys()
        for name, value in alone.items():
            assert stats[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.slow
def test_submitit_runs_the_same_program(shapes, tmp_path):
    """Two gloo processes on this machine, as a Slurm job would start them."""
    result = run_ok(
        "run_with_submitit.py", *TINY_RUN, "--coco_path", shapes, "--epochs", "1", "--ngpus", "0",
        "--tasks_per_node", "2", "--nodes", "1", "--timeout", "5", "--cpus_per_task", "1",
        "--job_dir", tmp_path / "jobs" / "%j", "--cluster", "local",
    )  # fmt: skip
    assert "Submitted job" in result.stdout
    # Without --output_dir everything is in the folder of the job.
    (folder,) = (path.parent for path in (tmp_path / "jobs").glob("*/log.txt"))
    assert "%j" not in str(folder)
    assert [epoch["epoch"] for epoch in read_log(folder)] == [0]
    assert load_checkpoint(str(folder / "checkpoint.pth"))["epoch"] == 0
    logs = "".join(path.read_text() for path in (tmp_path / "jobs").rglob("*.out"))
    assert "2 processes over gloo" in logs


@pytest.mark.slow
def test_a_failed_job_names_its_log(shapes, tmp_path):
    line = error_line(
        "run_with_submitit.py", *TINY_RUN, "--coco_path", shapes, "--batch_size", "100",
        "--ngpus", "0", "--nodes", "1", "--timeout", "5", "--cpus_per_task", "1", "--job_dir",
        tmp_path / "jobs", "--cluster", "local",
    )  # fmt: skip
    log = Path(line.rsplit("its log: ", 1)[1])
    assert "do not fill one batch" in log.read_text()


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


def test_engine_stops_before_the_weights_break(shapes, args, monkeypatch):
    options = args(*TINY_RUN, "--coco_path", shapes)
    loader, _ = build_loaders(options)
    model, criterion, _ = build_model(options)
    optimizer = build_optimizer(model, options)
    criterion.weight_dict["loss_giou"] = float("inf")
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(UserError, match="not finite"):
        train_one_epoch(model, criterion, loader, optimizer, torch.device("cpu"), 0)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_progress_in_a_log_is_plain_lines(trained):
    _, stdout = trained
    lines = [line for line in stdout.splitlines() if line.startswith("Epoch 0")]
    assert len(lines) == 1 and "4/4" in lines[0] and "loss" in lines[0] and "\r" not in stdout


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
    assert b"Evaluation: 100%" in shown and b"loss" in shown
