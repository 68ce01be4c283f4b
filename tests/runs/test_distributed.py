"""Runs of main.py in several processes: trained and evaluated as one process does."""

import json
import os
from pathlib import Path

import pytest
import torch

from checkpoints.compatibility import load_weights
from datasets.loaders import build_loaders
from engine import evaluate
from main import get_args_parser
from models import build_model
from tests.helpers.commands import MAIN, TINY_RUN, free_port, run_ok
from tests.helpers.data import make_shapes
from tests.helpers.runs import read_log, table
from util import distributed as dist
from util.checkpoint import load_checkpoint

LAUNCHERS = {
    "launch": ["-m", "torch.distributed.launch", "--nproc_per_node=2", "--use_env"],
    "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node=2"],
}


def launch(name, *options):
    """Run main.py in two processes."""
    first, *rest = [*LAUNCHERS[name], f"--master_port={free_port()}"]
    return run_ok(first, *rest, MAIN, *TINY_RUN, *options)


def precision(path):
    """Return pycocotools' precision array of an eval file."""
    return torch.load(path, weights_only=False)["precision"]


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
    """Evaluate as one of several processes; each writes the statistics that it gets."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    args = get_args_parser().parse_args(options)
    dist.init_distributed_mode(args, torch.device("cpu"))
    loader = build_loaders(args)[1]
    args.num_classes = loader.dataset.classes.num_classes
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
