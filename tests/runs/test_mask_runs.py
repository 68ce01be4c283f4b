"""Whole runs of main.py with masks, of instances and panoptic: train, freeze, evaluate, go on."""

import json

import pytest
import torch
from PIL import Image

from tests.helpers.commands import MAIN, ROOT, TINY_RUN, answer_of_main, free_port, run_ok
from tests.helpers.data import make_shapes
from tests.helpers.runs import read_log
from util.checkpoint import load_checkpoint

STEPS = ["--batch_size", "4", "--lr", "1e-3", "--lr_backbone", "1e-3"]
TWO = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
PANOPTIC = ["--dataset_file", "coco_panoptic", "--num_classes", "94"]


def main(*options, launcher=()):
    """Run main.py, which must succeed."""
    port = [f"--master_port={free_port()}"] if launcher else []
    first, *rest = [*launcher, *port, MAIN]
    return run_ok(first, *rest, *TINY_RUN, *options)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shapes on grounds: both kinds of annotations, of the same images."""
    out = tmp_path_factory.mktemp("data") / "shapes"
    return make_shapes(out, "--panoptic", "--train", "16", "--val", "9", "--size", "72")


@pytest.fixture(scope="module")
def detector(data, tmp_path_factory):
    """Train for one epoch without masks."""
    out = tmp_path_factory.mktemp("detector")
    main("--coco_path", data, "--output_dir", out, "--epochs", "1", *STEPS)
    return out / "checkpoint.pth"


@pytest.fixture(scope="module")
def masks(data, detector, tmp_path_factory):
    """Train a mask head on the frozen detector for two epochs."""
    out = tmp_path_factory.mktemp("masks")
    options = ["--coco_path", data, "--masks", "--frozen_weights", detector, *STEPS]
    main(*options, "--output_dir", out, "--epochs", "2")
    return out, options


def weights(path):
    return load_checkpoint(str(path))["model"]


def test_what_a_run_with_masks_writes(masks):
    out, _ = masks
    log = read_log(out)
    for row in log:
        assert len(row["test_coco_eval_masks"]) == len(row["test_coco_eval_bbox"]) == 12
        for name in ("loss_mask", "loss_dice", "loss_mask_unscaled"):
            assert row[f"train_{name}"] > 0 and row[f"test_{name}"] > 0
    assert log[1]["train_loss_mask"] < log[0]["train_loss_mask"]
    head = {n: v for n, v in weights(out / "checkpoint.pth").items() if not n.startswith("detr.")}
    assert log[0]["n_parameters"] == sum(value.numel() for value in head.values())


def test_the_frozen_detector_is_the_one_given(masks, detector):
    trained = weights(masks[0] / "checkpoint.pth")
    for name, value in weights(detector).items():
        assert torch.equal(trained[f"detr.{name}"], value), name
    assert read_log(masks[0])[-1]["test_coco_eval_bbox"] == pytest.approx(
        read_log(detector.parent)[-1]["test_coco_eval_bbox"]
    )


def test_going_on_needs_no_detector_and_changes_nothing(masks, tmp_path):
    out, options = masks
    main(*options, "--output_dir", tmp_path, "--epochs", "1")
    options = [tmp_path / "gone.pth" if str(o).endswith(".pth") else o for o in options]
    main(*options, "--output_dir", tmp_path, "--epochs", "2", "--resume",
         tmp_path / "checkpoint.pth")  # fmt: skip
    expected, found = (weights(folder / "checkpoint.pth") for folder in (out, tmp_path))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert read_log(tmp_path)[1] == read_log(out)[1]


@pytest.mark.slow
def test_two_threads_go_on_to_the_bit(data, tmp_path):
    """Boxes and masks together: all gradients add up in the same order each time."""

    def train(out, *options):
        run_ok(
            MAIN, *TINY_RUN, "--coco_path", data, "--masks", *STEPS, "--image_size", "128",
            "--output_dir", tmp_path / out, *options, env={"OMP_NUM_THREADS": "2"},
        )  # fmt: skip

    train("whole", "--epochs", "2")
    train("parts", "--epochs", "1")
    train("parts", "--epochs", "2", "--resume", "auto")
    expected, found = (weights(tmp_path / out / "checkpoint.pth") for out in ("whole", "parts"))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "parts")


@pytest.mark.slow
def test_one_and_two_processes_score_the_same(masks, data, tmp_path):
    out, _ = masks
    stdouts = [
        main("--coco_path", data, "--masks", "--eval", "--resume", out / "checkpoint.pth",
             "--batch_size", "1", launcher=launcher).stdout
        for launcher in ((), TWO)
    ]  # fmt: skip
    tables = [[line for line in s.splitlines() if " = " in line] for s in stdouts]
    assert len(tables[0]) == 24 and tables[0] == tables[1]
    assert "IoU metric: bbox" in stdouts[0] and "IoU metric: segm" in stdouts[0]


@pytest.mark.slow
def test_the_picture_of_a_run_shows_masks(masks):
    out, _ = masks
    result = run_ok(ROOT / "tools" / "show_run.py", out, "--threshold", "0", "--images", "4")
    assert result.stdout.count("Average Precision") == 12
    with_masks = (out / "detections.png").read_bytes()
    assert Image.open(out / "detections.png").size[0] > 500
    run_ok(ROOT / "tools" / "show_run.py", out, "--threshold", "1", "--images", "4", "--force")
    assert (out / "detections.png").read_bytes() != with_masks


@pytest.mark.slow
def test_masks_and_boxes_together_in_two_processes(data, tmp_path):
    main(
        "--coco_path", data, "--masks", "--output_dir", tmp_path, "--epochs", "1", "--batch_size",
        "2", "--gradient_checkpointing", launcher=TWO,
    )  # fmt: skip
    (row,) = read_log(tmp_path)
    assert row["train_loss_mask"] > 0 and len(row["test_coco_eval_masks"]) == 12


@pytest.mark.parametrize("amp", ["bf16"])
def test_masks_in_16_bits(masks, data, amp):
    out, _ = masks
    result = main("--coco_path", data, "--masks", "--eval", "--amp", amp, "--resume",
                  out / "checkpoint.pth")  # fmt: skip
    wanted = read_log(out)[-1]["test_loss_dice"]
    found = float(result.stdout.split(" dice ")[1].split()[0])
    assert found == pytest.approx(wanted, abs=0.02)


# ---- panoptic ----


@pytest.fixture(scope="module")
def panoptic(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("panoptic")
    options = [*PANOPTIC, "--coco_path", data, "--coco_panoptic_path", data]
    main(*options, "--masks", "--output_dir", out, "--epochs", "1", *STEPS)
    return out, options


def test_what_a_panoptic_run_writes(panoptic, data):
    out, _ = panoptic
    (row,) = read_log(out)
    for name in ("all", "th", "st"):
        assert set(row[f"test_PQ_{name}"]) == {"pq", "sq", "rq", "n"}
    assert row["test_PQ_all"]["n"] >= 5  # of 8 categories
    assert len(row["test_coco_eval_masks"]) == 12
    predictions = json.loads((out / "panoptic_eval" / "predictions.json").read_text())
    images = json.loads((data / "annotations" / "panoptic_val2017.json").read_text())["images"]
    for entry, image in zip(predictions["annotations"], images, strict=True):
        assert entry["image_id"] == image["id"]
        with Image.open(out / "panoptic_eval" / entry["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])


def test_panoptic_boxes_alone_and_without_instances(panoptic, data, tmp_path):
    """The first stage of published training; box AP only where there is something to score."""
    root = tmp_path / "coco"
    root.mkdir()
    for split in ("train2017", "val2017"):
        (root / split).symlink_to(data / split)
    main(*panoptic[1], "--coco_path", root, "--output_dir", tmp_path, "--epochs", "1", *STEPS)
    (row,) = read_log(tmp_path)
    assert row["train_loss_bbox"] > 0
    assert not any(name.startswith(("test_coco_eval", "test_PQ")) for name in row)


@pytest.mark.slow
def test_the_picture_of_a_panoptic_run(panoptic):
    out, _ = panoptic
    result = run_ok(ROOT / "tools" / "show_run.py", out, "--images", "3")
    assert "Things" in result.stdout and "Stuff" in result.stdout
    assert Image.open(out / "detections.png").size[0] > 500


def with_instances(data, root, change):
    """The images of `data` with other instances_*.json, of which `change` alters the content."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (root / split).symlink_to(data / split)
        name = f"annotations/instances_{split}.json"
        content = json.loads((data / name).read_text())
        change(content)
        (root / name).write_text(json.dumps(content))
    return root


def without_image_1(content):
    content["images"] = content["images"][1:]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 1]


def test_instances_of_other_images_are_refused(panoptic, data, tmp_path):
    root = with_instances(data, tmp_path / "coco", without_image_1)
    line = answer_of_main(*panoptic[1], "--masks", "--coco_path", root)
    assert "instances_val2017.json" in line and "image 1," in line


# Too long for the image: pycocotools would write outside of its memory.
BROKEN = {"counts": [0, 10**6], "size": [72, 72]}


def break_a_crowd(content):
    content["annotations"][2] |= {"iscrowd": 1, "segmentation": BROKEN}


@pytest.mark.parametrize("kind", ["coco", "coco_panoptic"])
def test_outlines_of_crowds_are_checked_before_they_are_scored(data, tmp_path, kind):
    root = with_instances(data, tmp_path / "coco", break_a_crowd)
    line = answer_of_main(
        "--dataset_file", kind, "--coco_path", root, "--coco_panoptic_path", data, "--masks",
        "--eval",
    )  # fmt: skip
    assert "instances_val2017.json: annotation 3 of image" in line
    assert "has RLE that covers 1000000 pixels" in line


# ---- options that do not fit ----


def test_frozen_weights_that_do_not_fit(masks, data, detector, tmp_path):
    out, _ = masks
    options = ["--coco_path", data, "--output_dir", tmp_path]
    for wrong, says in (
        (["--frozen_weights", detector], "it needs --masks"),
        (["--masks", "--frozen_weights", tmp_path / "no.pth"], "no.pth: no such file"),
        (["--masks", "--frozen_weights", out / "checkpoint.pth"], "has a mask head already"),
        (["--masks", "--frozen_weights", detector, "--num_queries", "9"], "made with --num_que"),
        (["--masks", "--resume", detector], "made with --masks False"),
    ):
        line = answer_of_main(*options, *wrong)
        assert says in line, line
        assert "frozen_weights" in line or "--resume" in line
    assert not list(tmp_path.iterdir())


def test_annotations_without_masks(data, tmp_path):
    def change(content):
        del content["annotations"][3]["segmentation"]

    root = with_instances(data, tmp_path / "coco", change)
    line = answer_of_main("--coco_path", root, "--masks", "--eval")
    assert "annotation 4 has no segmentation" in line and "instances_val2017.json" in line
