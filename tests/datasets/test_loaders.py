"""What differs from sample to sample and from epoch to epoch, and what does not."""

import argparse
import json
import socket

import pytest

from datasets import build_dataset, loaders
from datasets.coco import CocoDetection
from datasets.layouts import find_split
from datasets.loaders import build_loaders
from datasets.transforms import make_coco_transforms
from tests.helpers.data import assert_same_samples, make_split


def test_samples_of_one_epoch_differ(tmp_path):
    """Twelve copies of an image come in different sizes."""
    images, annotations = make_split(tmp_path, [], size=(64, 48))
    content = json.loads(annotations.read_text())
    content["images"] = [{"id": i, "file_name": "a.png"} for i in range(12)]
    annotations.write_text(json.dumps(content))
    dataset = CocoDetection(images, annotations, make_coco_transforms("detr", 64))
    assert len({image.shape for image, _ in dataset}) > 4


def test_validation_is_not_augmented(varied_shapes, args):
    options = args("--coco_path", varied_shapes, "--image_size", 64, "--augment", "detr")
    dataset = build_dataset("val", options)
    first = list(dataset)
    dataset.set_epoch(1)
    assert_same_samples(first, dataset)


def test_the_rest_of_an_epoch(shapes, args):
    """After two of eight batches; the next epoch is whole again, and in another order."""
    options = args("--coco_path", shapes, "--image_size", 64, "--batch_size", 2, "--num_workers", 0)
    loader, _ = build_loaders(options)

    def ids():
        return [[target["image_id"].item() for target in targets] for _, targets in loader]

    loader.set_position(3, 0)
    whole = ids()
    loader.set_position(3, 2)
    assert len(loader) == 6 and ids() == whole[2:]
    loader.set_position(4, 0)
    assert len(loader) == 8 and ids() != whole


@pytest.mark.parametrize(
    ("wanted", "cores", "others", "count"),
    [
        (4, 8, [], 4), (4, 2, [], 2), (0, 8, [], 0), (4, 1, [], 1),
        (9, 8, ["same"], 4),  # two processes share eight cores
        (9, 8, ["same"] * 15, 1),
        (9, 8, ["another machine"] * 15, 8),
        (9, 8, ["own cores"], 8),  # each process of the machine has its own, as under Slurm
    ],
)  # fmt: skip
def test_workers_are_at_most_one_a_core(monkeypatch, capsys, wanted, cores, others, count):
    mine = list(range(cores))
    places = {
        "same": (socket.gethostname(), mine),
        "another machine": ("there", mine),
        "own cores": (socket.gethostname(), [core + cores for core in mine]),
    }
    monkeypatch.setattr(loaders, "_cores", lambda: mine)
    monkeypatch.setattr(
        loaders.dist, "all_gather", lambda here: [here, *(places[other] for other in others)]
    )
    args = argparse.Namespace(num_workers=wanted, given=[])
    assert loaders.worker_count(args) == count
    assert capsys.readouterr().out == ""  # the default adapts
    args.given = ["num_workers"]
    assert loaders.worker_count(args) == count
    said = f"--num_workers {wanted}: more than there are cores, each process has {count}\n"
    assert capsys.readouterr().out == said * (count < wanted)


@pytest.mark.parametrize("given", ["val2017", "val2017.zip"])
def test_images_that_are_named_may_be_an_archive(tmp_path, given):
    for name in ("val2017.zip", "val.json"):
        (tmp_path / name).touch()
    args = argparse.Namespace(val_images=str(tmp_path / given), val_ann=str(tmp_path / "val.json"))
    assert find_split("val", args).images == tmp_path / "val2017"
