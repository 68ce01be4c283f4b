"""Valid annotations are accepted, whatever form outlines have; errors stand in hostile/."""

import pytest
import torch
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader

from datasets.annotations.instances import read_annotations
from datasets.validation.segmentations import rle_counts, segmentation_problem
from tests.hostile.annotations import (
    CASES,
    HEIGHT,
    RUNS,
    WIDTH,
    Case,
    annotation_file,
    compressed,
    error_of,
    runs,
    training_data,
    write_split,
)
from util.errors import UserError


def test_an_image_id_may_not_be_used_twice(tmp_path):
    root = write_split(tmp_path, {"a": Case("", [{}]), "b": Case("", image={"id": 1})})
    for skip in (False, True):  # which image the annotations are of is not known
        with pytest.raises(UserError, match=r"image id 1 is that of 2 images, a\.png and b\.png"):
            training_data(root, skip_bad_images=skip)


def test_what_published_detr_tolerates_is_only_noted(tmp_path):
    tolerated = [
        {"bbox": [30, 20, 50, 50]}, {"bbox": [-1, -2, 10, 10]}, {"bbox": [5, 5, 0, 8]},
        {"bbox": [40, 30, 0, 0]}, {"bbox": [5, 5, 3, 4], "image_id": 99},
    ]  # fmt: skip
    root = write_split(tmp_path, {"a": Case("", tolerated)})
    assert training_data(root)[0][1]["boxes"].shape == (2, 4)
    _, faults = read_annotations(annotation_file(root), notes=True)
    assert [f.note for f in faults] == ["beyond", "beyond", "empty", "empty", "no image"]
    assert str(faults[-1]).endswith("annotation 14 of image 99 which the file does not list")
    assert read_annotations(annotation_file(root))[1] == []


# ---- outlines ----


def test_compressed_counts_are_those_of_pycocotools():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        mask = torch.rand(HEIGHT, WIDTH, generator=generator) < torch.rand((), generator=generator)
        packed = coco_mask.encode(mask.to(torch.uint8).T.contiguous().T.numpy())
        flat = mask.T.flatten().int()
        edges = torch.diff(flat, prepend=torch.tensor([0]), append=1 - flat[-1:]).nonzero()
        counts = torch.diff(edges.flatten(), prepend=torch.tensor([0])).tolist()
        text = packed["counts"].decode()
        assert rle_counts(text) == counts
        assert segmentation_problem({**packed, "counts": text}, HEIGHT, WIDTH) is None
    assert rle_counts("") == []


def test_good_outlines_of_all_kinds():
    for outline in ([[0, 0, WIDTH, 0, WIDTH + 0.5, HEIGHT]], runs(RUNS), runs(compressed(RUNS))):
        assert segmentation_problem(outline, HEIGHT, WIDTH) is None


def test_the_error_of_a_worker_is_the_fault(tmp_path):
    root = write_split(tmp_path, {"text": CASES["text"]})
    with pytest.raises(UserError) as error:
        list(DataLoader(training_data(root), batch_size=None, num_workers=1))
    assert str(error.value) == error_of(root, {"text": CASES["text"]}, "text")
