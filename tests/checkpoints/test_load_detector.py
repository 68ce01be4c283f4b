"""load_detector: a detector in Python, from its checkpoint alone."""

import argparse

import numpy as np
import pytest
import torch
from PIL import Image

from checkpoints.compatibility import COCO_NAMES
from datasets import build_dataset
from detector import load_detector
from models import build_model
from tests.helpers.checkpoints import NAMES, assert_same_detections, write_checkpoint
from tests.helpers.commands import RPE, TINY_RUN
from util.errors import UserError
from util.misc import collate_fn


def test_it_finds_what_an_evaluation_finds(varied_shapes, args, files, tmp_path):
    with_masks = write_checkpoint(tmp_path / "m.pth", args, "--num_classes", "6", "--masks")
    options = args(*TINY_RUN, "--masks", "--coco_path", varied_shapes, "--num_classes", "6")
    model, _, postprocessors = build_model(options)
    model.load_state_dict(torch.load(with_masks, weights_only=False)["model"])
    dataset = build_dataset("val", options)
    samples, targets = collate_fn([dataset[i] for i in range(3)])
    orig_sizes, sizes = (torch.stack([t[k] for t in targets]) for k in ("orig_size", "size"))
    with torch.no_grad():
        outputs = model.eval()(samples)
    wanted = postprocessors["bbox"](outputs, orig_sizes)
    wanted = postprocessors["segm"](wanted, outputs, orig_sizes, sizes)
    detector = load_detector(with_masks, "cpu")
    for one, other in zip(detector.detect_batch(samples, targets), wanted, strict=True):
        for name, value in other.items():
            torch.testing.assert_close(one[name], value)
    found = detector(files, threshold=0)
    for one, other in zip(found, wanted, strict=True):
        order = other["scores"].argsort(descending=True, stable=True)
        for name, value in other.items():
            torch.testing.assert_close(one[name], value[order], atol=1e-4, rtol=1e-4)
        assert one["names"] == [NAMES.get(label, "class 0") for label in one["labels"].tolist()]


def test_images_of_every_kind(checkpoint, files):
    detector = load_detector(checkpoint, device="cpu")
    with Image.open(files[0]) as opened:
        picture = opened.convert("RGB")
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    (wanted,) = detector(str(files[0]), threshold=0)
    assert len(wanted["scores"]) == 8 and (wanted["scores"].diff() <= 0).all()
    for image in (files[0], picture, array, tensor, tensor.double() / 255):
        (found,) = detector([image], threshold=0)
        assert_same_detections(found, wanted)
    middle = wanted["scores"][3].item()
    assert len(detector(picture, threshold=middle)[0]["names"]) == 4
    assert detector([]) == []
    assert len(detector(array[..., 0], threshold=0)[0]["boxes"]) == 8  # grey


def test_floats_a_little_outside_are_those_of_resizing(checkpoint):
    detector = load_detector(checkpoint, "cpu")
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    beyond = torch.where(image > 0.9, 1.1, torch.where(image < 0.1, -0.1, image))
    (found,) = detector(beyond, threshold=0)
    (wanted,) = detector(beyond.clamp(0, 1), threshold=0)
    assert_same_detections(found, wanted)


def test_names_of_checkpoints_that_do_not_tell(args, tmp_path):
    """Those of published code: COCO's, of which 80 ids up to 90 are in use."""
    published = write_checkpoint(tmp_path / "p.pth", args, classes=None)
    assert load_detector(published).names == COCO_NAMES
    assert len(COCO_NAMES) == 80 and COCO_NAMES[1] == "person" and COCO_NAMES[90] == "toothbrush"
    other = write_checkpoint(tmp_path / "o.pth", args, "--num_classes", "4", classes=None)
    detector = load_detector(other)
    (found,) = detector(Image.new("RGB", (64, 64)), threshold=0)
    assert set(found["names"]) <= {f"class {label}" for label in range(4)}


def test_checkpoints_without_a_model(tmp_path, args):
    for content, says in (
        ({"model": {}}, "not the weights of a DETR"),
        ([1, 2], "no 'model'"),
        ({"args": argparse.Namespace()}, "no 'model'"),
    ):
        torch.save(content, tmp_path / "c.pth")
        with pytest.raises(UserError, match=says):
            load_detector(tmp_path / "c.pth")
    with pytest.raises(UserError, match="no such checkpoint"):
        load_detector(tmp_path / "none.pth")


def test_it_is_printed_as_one_line(args, checkpoint, tmp_path):
    assert repr(load_detector(checkpoint, "cpu")) == (
        f"Detector(DETR resnet10 {RPE}; 5 classes: disc, square, triangle, star, plus; "
        "images resized to 64; cpu)"
    )
    many = write_checkpoint(tmp_path / "p.pth", args, "--masks", "--dec_rpe", "box-log",
                            classes=None)  # fmt: skip
    assert f"DETRsegm resnet10 {RPE} box-log; 80 classes: person, " in repr(load_detector(many))
    assert ", airplane, ...; images" in repr(load_detector(many))
    none = write_checkpoint(tmp_path / "n.pth", args, "--num_classes", "4", classes=None)
    assert "; classes without names; " in repr(load_detector(none))
    named = write_checkpoint(tmp_path / "o.pth", args, classes={1: "a\n\x1bb"})
    assert "; 1 class: a\\n\\x1bb;" in repr(load_detector(named))


def test_drawings_show_what_is_found(args, files, tmp_path):
    """Pixels change at boxes and in masks, of a copy of the image."""
    detector = load_detector(write_checkpoint(tmp_path / "m.pth", args, "--masks"), "cpu")
    with Image.open(files[0]) as opened:
        picture = opened.convert("RGB").resize((500, 400))
    picture.save(tmp_path / "image.png")
    before = np.asarray(picture).copy()
    found = {
        "boxes": torch.tensor([[60.0, 80.0, 260.0, 280.0]]), "scores": torch.tensor([0.9]),
        "labels": torch.tensor([1]), "names": ["disc"],
        "masks": torch.zeros(1, *before.shape[:2], dtype=torch.bool),
    }  # fmt: skip
    for given in (tmp_path / "image.png", picture, before):
        changed = (np.asarray(detector.draw(given, found)) != before).any(axis=2)
        assert changed[75:285, 55:65].any(axis=1)[10:-10].all()  # the left side of the box
        changed[50:285, 55:265] = False  # the box, and a caption above it
        assert not changed.any()
    assert not (np.asarray(detector.draw(picture, found)) != before)[200:250, 150:200].any()
    found["masks"][0, 200:250, 150:200] = True
    tinted = (np.asarray(detector.draw(picture, found)) != before).any(axis=2)
    assert tinted[200:250, 150:200].all()
    assert (np.asarray(picture) == before).all()
    (all_found,) = detector(picture, 0)
    assert detector.draw(picture, threshold=0) == detector.draw(picture, all_found)
    assert (np.asarray(detector.draw(picture, threshold=1)) == before).all()  # nothing is found
    with pytest.raises(TypeError, match=r"such as detector\(image\)\[0\]"):
        detector.draw(picture, [all_found])
