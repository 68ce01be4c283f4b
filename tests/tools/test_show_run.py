"""tools/show_run.py: what it refuses. Tests of runs look at what it draws and prints."""

import json
import re

import pytest
import torch
from PIL import Image

from models import build_model
from tests.helpers.commands import TINY_RUN, error_line, run_ok
from tests.helpers.tool_runs import run_tool
from tools import show_run
from util import VERSION
from util.pictures.grid import CELL, GAP

TOOL = "tools/show_run.py"


@pytest.fixture
def run_folder(args, shapes, tmp_path):
    """A folder with what the tool reads of a run."""
    options = args(*TINY_RUN, "--coco_path", shapes, "--num_classes", "6")
    model = build_model(options)[0]
    content = {"model": model.state_dict(), "args": options, "version": VERSION}
    torch.save(content, tmp_path / "checkpoint.pth")
    (tmp_path / "log.txt").write_text(json.dumps({"epoch": 0, "train_loss": 1.0}) + "\n")
    return tmp_path


def test_nothing_found(run_folder):
    """Scores of an untrained model are about 1 / 7: the best are drawn, and a line says so."""
    drawn = []
    for threshold in ("0.9", "0"):
        run = run_tool(show_run, run_folder, "--images", "3", "--threshold", threshold, "--force")
        assert run.code == 0
        said = re.search(
            r"no score reaches --threshold 0\.9: the best is 0\.\d+ \([\w ]+ in", run.out
        )
        assert bool(said) == (threshold == "0.9")
        drawn.append((run_folder / "detections.png").read_bytes())
    assert drawn[0] != drawn[1]
    with Image.open(run_folder / "detections.png") as picture:
        assert picture.width == 3 * (CELL + GAP) + GAP


@pytest.mark.slow
def test_pictures_are_not_written_over(run_folder):
    run_ok(TOOL, run_folder, "--images", "1")
    before = {path: path.read_bytes() for path in run_folder.iterdir()}
    for name in ("curves.png", "detections.png"):
        others = [path for path in run_folder.glob("*.png") if path.name != name]
        for path in others:
            path.unlink()
        assert f"{name}: exists; add --force" in error_line(TOOL, run_folder)
        for path in others:
            path.write_bytes(before[path])
    (run_folder / "curves.png").write_text("an old one")
    run_ok(TOOL, run_folder, "--images", "1", "--force")
    assert (run_folder / "curves.png").read_bytes() == before[run_folder / "curves.png"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"version": "99.0"}, "made by version 99.0 of this project"),
        ({"args": None}, "not a checkpoint of main.py, it has no 'args'"),
        ({"model": None}, "not a detector's checkpoint, it has no 'model'"),
    ],
)
def test_other_checkpoints_are_answered_with_one_line(run_folder, changed, words):
    path = run_folder / "checkpoint.pth"
    content = torch.load(path, weights_only=False)
    torch.save({**content, **changed}, path)
    line = error_line(TOOL, run_folder)
    assert str(path) in line and words in line
    assert not list(run_folder.glob("*.png"))


def test_a_folder_without_a_run_is_answered_with_one_line(run_folder, tmp_path):
    assert "no such checkpoint file" in error_line(TOOL, tmp_path / "nothing")
    assert "no such folder" in error_line(TOOL, run_folder, "--coco_path", tmp_path / "nothing")
    assert not list(run_folder.glob("*.png"))
    (run_folder / "log.txt").unlink()
    assert "log.txt" in error_line(TOOL, run_folder)
    help_text = run_ok(TOOL, "--help").stdout
    assert "examples:" in help_text and "--force" in help_text


def test_data_without_images(run_folder, tmp_path):
    data = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "empty.json").write_text(json.dumps(data))
    options = ["--val_images", tmp_path, "--val_ann", tmp_path / "empty.json"]
    assert "empty.json: lists no images to draw" in error_line(TOOL, run_folder, *options)
