"""Resuming with other data than the checkpoint was made with, and with images skipped before."""

import os
from types import SimpleNamespace

import pytest

from datasets.coco import CocoDetection
from datasets.transforms import make_coco_transforms
from tests.helpers.resumed_runs import Resumed
from tools.error_report import get_args_parser, validation_loader


@pytest.fixture(scope="module")
def run():
    return Resumed()


@pytest.fixture
def split(shapes):
    """split(name): a split of the data, whose bad images are skipped."""

    def of(name):
        annotations = shapes / "annotations" / f"instances_{name}2017.json"
        images = shapes / f"{name}2017"
        return CocoDetection(
            images, annotations, make_coco_transforms("none", 64), skip_bad_images=True
        )

    return of


def test_skipped_images_are_those_of_the_whole_run(run, split, tmp_path):
    path = tmp_path / "checkpoint.pth"
    before = split("train")
    before.skip([3, 1])
    assert before.skipped() == [1, 3]
    run.write(path, before)
    dataset = split("train")
    dataset.skip([5])
    assert run.resume(path, dataset).skipped() == [1, 3, 5]


def test_images_that_are_gone_are_said(run, split, tmp_path, capsys):
    path = tmp_path / "checkpoint.pth"
    before, now = split("train"), split("val")
    before.skip([1])
    run.write(path, before)
    run.resume(path, split("train"))
    assert "training images" not in capsys.readouterr().out
    state = run.resume(path, now)
    assert "had 16 training images, there are 13 now" in capsys.readouterr().out
    assert state.skipped() == []  # they were others


@pytest.mark.parametrize("evaluated", [False, True])
@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({0: "cat"}, ""),
        ({0: "dog"}, "its classes are not the data's: 0 is 'cat' there, 'dog' here\n"),
        ({0: "cat", 1: "dog"}, "its classes are not the data's: 'dog' is not there\n"),
        (dict(enumerate("abcde")), "0 is 'cat' there, 'a' here, 'b' is not there, 'c' is not "
                                   "there and 2 more\n"),
    ],
)  # fmt: skip
def test_other_classes_are_said(run, tmp_path, capsys, monkeypatch, names, says, evaluated):
    path = tmp_path / "checkpoint.pth"
    run.write(path)
    monkeypatch.setattr(run.args, "eval", evaluated)
    run.resume(path, names=names)
    said = capsys.readouterr().out
    assert says in said and ("its classes" in said) == bool(says)


def test_loader_processes_of_a_larger_machine(shapes):
    args = Resumed().args
    args.num_workers = 100
    options = get_args_parser().parse_args(["c.pth", "--coco_path", str(shapes)])
    options.device = "cpu"
    loader = validation_loader(SimpleNamespace(args=args), options)
    assert 1 <= loader.num_workers <= os.cpu_count()
    options.num_workers = 1
    assert validation_loader(SimpleNamespace(args=args), options).num_workers == 1
