"""Runs on data of other layouts and with a user's own transform, to the bit."""

import argparse
import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from datasets.loaders import build_loaders
from detection_task import build_optimizer
from engine import train_one_epoch
from models import build_model
from tests.helpers.commands import MAIN, TINY_RUN, answer_of_main, error_line, run_ok
from tests.helpers.data import make_shapes
from tests.helpers.runs import assert_same_run, classes, command, signal_all, start, wait_for
from tests.helpers.tool_runs import result_lines, run_tool
from tools import check_data, convert_data
from util.checkpoint import load_checkpoint
from util.cli import with_options

DRAWN = ["--train", "8", "--val", "2", "--test", "3", "--size", "64", "--aspect", "1.3",
         "--classes", "disc", "plus", "square", "star", "triangle"]  # fmt: skip
OWN = """
import random
import numpy as np
from torchvision.transforms import v2

def train():
    return v2.Compose([v2.RandomZoomOut(p=0.5), v2.RandomIoUCrop(), v2.SanitizeBoundingBoxes(),
                       darker])

def darker(image, target):
    return (image / (1 + random.random() + np.random.rand())).byte(), target
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, Path]:
    """The same shapes in each layout that main.py reads, or converted to one."""
    root = tmp_path_factory.mktemp("drawn")
    found = {}
    for layout in ("coco", "roboflow", "yolo", "voc"):
        found[layout] = make_shapes(root / layout, "--layout", layout, *DRAWN)
        if layout in ("yolo", "voc"):
            found[layout] = root / f"from_{layout}"
            run = run_tool(convert_data, root / layout, found[layout])
            assert run.code == 0, run
    return found


def trained(options: argparse.Namespace) -> dict:
    """Return the weights after an epoch of training."""
    loader, _ = build_loaders(options)
    options = with_options(options, **loader.dataset.classes._asdict())
    torch.manual_seed(0)
    model, criterion, _ = build_model(options)
    optimizer = build_optimizer(model, options)
    train_one_epoch(model, criterion, loader, optimizer, torch.device("cpu"), 0, 0.1)
    return model.state_dict()


def test_each_layout_trains_to_the_same_bits(drawn, args):
    wanted, *others = (
        trained(args(*TINY_RUN, "--coco_path", drawn[layout], "--lr", "1e-3", *options))
        for layout, options in (("coco", []), ("yolo", []), ("voc", []), ("coco", ["--lr", "2e-3"]))
    )
    same = [all(torch.equal(w[name], wanted[name]) for name in wanted) for w in others]
    assert same == [True, True, False]
    assert all(w.keys() == wanted.keys() for w in others)


def test_the_test_split_is_evaluated_and_checked(drawn):
    """Of Roboflow's folder test/."""
    told = run_ok(MAIN, *TINY_RUN, "--eval", "--coco_path", drawn["roboflow"], "--eval_split",
                  "test")  # fmt: skip
    path = drawn["roboflow"] / "test" / "_annotations.coco.json"
    before = path.read_text()
    content = json.loads(before)
    names = {c["id"]: c["name"] for c in content["categories"]}
    objects = Counter(names[a["category_id"]] for a in content["annotations"] if not a["iscrowd"])
    counts = {name: int(words[0]) for name, words in classes(told.stdout).items()}
    assert len(counts) == 5 and counts == {name: objects[name] for name in counts}
    content["annotations"][0]["bbox"] = [1, 2, 3]
    path.write_text(json.dumps(content))
    try:
        for options in ((), ("--split", "test")):
            run = run_tool(check_data, drawn["roboflow"], "--jobs", "1", *options)
            assert run.code == 1
            error, count = result_lines(run.out)
            assert error.startswith(f"error: {path}: annotation 1 of image 1 has bbox [1, 2, 3]")
            assert count == "errors: 1, notes: 0"
    finally:
        path.write_text(before)


def test_splits_that_cannot_be_evaluated(shapes):
    for options, says in (
        (["--eval_split", "test"], "--eval_split is for --eval"),
        (["--eval", "--eval_split", "test"], "instances_test2017.json"),
        (["--eval", "--eval_split", "test", "--dataset_file", "coco_panoptic"],
         "--eval_split test is for --dataset_file coco"),
    ):  # fmt: skip
        assert says in answer_of_main("--coco_path", shapes, *options)


@pytest.mark.slow
def test_a_stopped_run_with_an_own_transform_goes_on_to_the_bit(drawn, tmp_path):
    """It is resumed with the option, not by what the checkpoint says."""
    (tmp_path / "own.py").write_text(OWN)
    augment = ["--augment", f"detr+photometric+{tmp_path / 'own.py'}:train"]
    data, wanted, out = drawn["coco"], tmp_path / "wanted", tmp_path / "out"
    run_ok(*command(data, wanted, 1, *augment))
    process = start(*command(data, out, 1, *augment, "--num_workers", "2"))
    wait_for(process, "saved after step 1 of epoch 1")
    signal_all(process, "SIGTERM")
    process.communicate(timeout=60)
    checkpoint = load_checkpoint(str(out / "checkpoint.pth"))
    assert checkpoint["step"] >= 1 or checkpoint["epoch"] == 0  # it just ended the epoch
    again = run_ok(*command(data, out, 1, *augment, "--num_workers", "2", "--resume", "auto"))
    assert "changed" not in again.stdout
    assert_same_run(out, wanted)
    (tmp_path / "own.py").unlink()
    resumed = command(data, out, 1, "--epochs", "4", "--resume", "auto")
    assert f"--augment {augment[1]} -> detr" in run_ok(*resumed).stdout
    line = error_line(MAIN, "--finetune", wanted / "checkpoint.pth", "--coco_path", data)
    assert "whose code is run only where a command line names it" in line
    run_ok(*command(data, wanted, 1, "--eval", "--resume", str(wanted / "checkpoint.pth")))
