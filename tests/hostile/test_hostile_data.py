"""Hostile and broken data: each gets one line, and nothing outside of its folder is touched.

Each goes through the lowest function that answers it, in this process, a few through main.py. The
table of what was said is printed at the end of the tests.
"""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import build_dataset
from datasets.annotations.categories import classes_for
from datasets.annotations.panoptic import load_panoptic_annotations
from detector import load_detector
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.commands import answer_of_main
from tests.helpers.panoptic_data import annotation_file as panoptic_file
from tests.helpers.panoptic_data import dataset_of
from tests.hostile import archives  # noqa: F401  adds to the table
from tests.hostile.annotations import (
    CASES,
    CUT,
    Case,
    error_of,
    has_outlines,
    training_data,
    write_split,
)
from tests.hostile.cases import fingerprint
from tests.hostile.data import DATA, write_good
from tests.hostile.panoptic import FILES, MAPS, with_fault, with_map
from util.errors import UserError

THROUGH_MAIN = (
    "annotations: cut", "a category twice", "a file name with ../", "an image: half of its bytes",
    "an encrypted archive",
)  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Good data, and a file that nobody may touch."""
    root = tmp_path_factory.mktemp("good")
    write_good(root / "data")
    (root / "outside").mkdir()
    shutil.copy(root / "data" / "train2017" / "a.png", root / "outside" / "secret.png")
    return root


@pytest.fixture
def broken(good, tmp_path):
    """broken(name): the data of that case."""

    def make(name: str):
        root = shutil.copytree(good, tmp_path / "folder")
        DATA[name][0](root / "data", root / "outside")
        return root / "data"

    return make


def read_all(options) -> None:
    """Read every sample, as training does."""
    dataset = build_dataset("train", options)
    if options.num_classes is None:
        classes_for(dataset.annotations)
    for _ in dataset:
        pass


@pytest.mark.parametrize("name", DATA)
def test_data(name, broken, check, args):
    data = broken(name)
    before = fingerprint(data.parent / "outside")
    with pytest.raises(UserError) as error:
        read_all(args("--coco_path", data, "--image_size", 64))
    line = str(error.value)
    assert line.isprintable()
    assert fingerprint(data.parent / "outside") == before
    check(name, DATA[name][1], line)


@pytest.mark.parametrize("name", THROUGH_MAIN)
def test_main_says_the_same(name, broken):
    data = broken(name)
    line = answer_of_main("--coco_path", data, "--epochs", "1", "--batch_size", "1")
    assert line.startswith(f"error: {data}")
    assert re.search(DATA[name][1], line)


def test_the_data_are_good_before_they_are_broken(good, args):
    read_all(args("--coco_path", good / "data", "--image_size", 64))


# ---- annotations, in exactly these words ----


@pytest.mark.parametrize("name", CASES)
def test_a_fault_of_an_annotation_or_its_image(name, tmp_path, check):
    case = CASES[name]
    cases = {"good": Case("", [{}]), name: case}
    root, wanted = write_split(tmp_path, cases), error_of(tmp_path, cases, name)
    masks = has_outlines(case)
    if case.late:
        if masks:
            list(training_data(root))  # where outlines are not used, they are not looked at
        training_data(root)[0]
    with pytest.raises(UserError) as error:
        dataset = training_data(root, return_masks=masks)
        assert case.late
        dataset[1]
    said = str(error.value)
    assert said == wanted or (case.file == CUT and said.startswith(wanted))
    assert "\n" not in said
    check(f"annotations of an image: {name}", "", said)


# ---- panoptic data, in exactly these words ----


@pytest.mark.parametrize("name", FILES)
def test_a_fault_of_a_panoptic_file(name, tmp_path, check):
    wanted = with_fault(tmp_path, name)
    with pytest.raises(UserError) as error:
        load_panoptic_annotations(panoptic_file(tmp_path), num_classes=91)
    said = str(error.value)
    assert said == wanted or (said.startswith(wanted) and "too large" in wanted)
    for skip in (False, True):  # what is wrong with one image alone can be skipped
        try:
            list(dataset_of(tmp_path, num_classes=91, skip_bad_images=skip))
        except UserError as error:
            assert str(error) == said
        else:
            assert skip and " image " in wanted
    check(f"a panoptic file: {name}", r"^[^\n]*$", said)


@pytest.mark.parametrize("name", MAPS)
def test_a_fault_of_a_map(name, tmp_path, check):
    wanted = with_map(tmp_path, name)
    dataset = dataset_of(tmp_path)
    for read in (lambda: dataset[0], lambda: dataset.truth(1)):
        with pytest.raises(UserError) as error:
            read()
        said = str(error.value)
        assert said == wanted or (said.startswith(wanted) and wanted.endswith(("(", "(no PNG")))
    dataset[1]
    skipping = dataset_of(tmp_path, skip_bad_images=True)
    assert [target["image_id"].item() for _, target in skipping] == [2, 2]
    check(f"a panoptic map: {name}", r"^[^\n]*$", said)


# ---- what a detector is given ----

INPUTS = {
    "grey": (torch.zeros(1, 8, 8), r"tensors are \(3, H, W\), not \(1, 8, 8\).*image\.expand"),
    "a batch": (torch.zeros(1, 3, 8, 8), r"tensors .* not \(1, 3, 8, 8\): .*list\(images\)"),
    "channels last": (torch.zeros(8, 9, 3), r"not \(8, 9, 3\): image\.permute\(2, 0, 1\)"),
    "no rows": (torch.zeros(3, 0, 8), r"no pixels, it is a tensor \(3, 0, 8\): check"),
    "floats to 255": (torch.full((3, 8, 8), 255.0), "are from 0 to 1, not from 255 to 255: divide"),
    "normalised": (torch.full((3, 8, 8), -2.1), "are from 0 to 1, not from -2.1 to -2.1"),
    "NaN": (torch.full((3, 8, 8), torch.nan), "are from 0 to 1, not from nan to nan"),
    "int64": (torch.full((3, 8, 8), 200), "tensors are of uint8 or floats, not torch.int64"),
    "an array of floats": (np.zeros((8, 8, 3), np.float32), "uint8, not float32: .*0 to 1$"),
    "an array of int64": (np.zeros((8, 8), np.int64), "uint8, not int64: .*from 0 to 255$"),
    "an array of a batch": (
        np.zeros((2, 8, 8, 3), np.uint8),
        r"arrays .* not \(2, 8, 8, 3\): .*list\(images\)",
    ),
    "an array, channels first": (np.zeros((3, 8, 9), np.uint8), r"image\.transpose\(1, 2, 0\)"),
    "two channels": (np.zeros((8, 8, 2), np.uint8), r"arrays are .* not \(8, 8, 2\)"),
    "an empty array": (np.zeros((0, 8), np.uint8), r"no pixels, it is an array \(0, 8\): check"),
    "an empty image": (Image.new("RGB", (0, 8)), "an image has no pixels, it is 8 x 0: check"),
    "32 bits of grey": (Image.new("I", (8, 8), 4000), "32-bit grey goes from 4000 to 4000"),
    "a number": (7, "paths, PIL images, arrays or tensors, or a list of these, not <class 'int'>"),
    "nothing": (None, "an image is None, which cv2.imread returns for .*check the path"),
    "an address": ("https://a.org/b.jpg", "^https://a.org/b.jpg: images are not downloaded; save"),
    "a missing file": ("/nowhere/a.png", "/nowhere: no such image folder"),
    "a name with a forged line": (
        "a\nerror: b.png",
        r"^'?a\\nerror: b\.png'?: image missing from \.$",
    ),
    "a device": ("/dev/zero", "/dev/zero: not a regular file"),
}


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    from main import get_args_parser

    def args(*options):
        return get_args_parser().parse_args(options)

    path = tmp_path_factory.mktemp("detector") / "checkpoint.pth"
    return load_detector(write_checkpoint(path, args, "--num_classes", "6"), "cpu")


@pytest.mark.parametrize("name", INPUTS)
def test_what_a_detector_cannot_look_at(name, detector, check):
    given, says = INPUTS[name]
    with pytest.raises((UserError, TypeError, ValueError)) as error:
        detector([given])
    check(f"to a detector: {name}", says, str(error.value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("threshold", [1.01, -0.1, 50, float("nan")])
def test_a_threshold_is_a_score(threshold, detector, check):
    with pytest.raises(ValueError) as error:
        detector(Image.new("RGB", (8, 8)), threshold)
    says = f"threshold must be from 0 to 1, is {threshold}"
    check(f"to a detector: a threshold of {threshold}", says, str(error.value))
