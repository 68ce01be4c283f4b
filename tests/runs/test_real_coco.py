"""ResNet-50 on real COCO images, from folders and from archives.

COCO_PATH names the data, for example a small part of COCO 2017 in COCO's own layout.
"""

import json
import re
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision

from checkpoints.compatibility import load_weights
from main import build_loaders
from models import build_model
from tests.helpers.commands import MAIN, RPE, run_ok
from tests.helpers.data import COCO_PATH, needs_coco, zip_folder
from util.checkpoint import load_checkpoint

pytestmark = [pytest.mark.slow, needs_coco]
COMMON = ["--device", "cpu", "--enc_rpe2d", RPE, "--lr_drop", "100"]
SMALL_MODEL = ["--enc_layers", "1", "--dec_layers", "1", "--num_queries", "20"]


def put(folder: Path, name: str, target: Path) -> None:
    """An image of a split that may be an archive."""
    if (folder / name).exists():
        target.symlink_to((folder / name).resolve())
        return
    with zipfile.ZipFile(f"{folder}.zip") as archive:
        target.write_bytes(archive.read(f"{folder.name}/{name}"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The same few images twice: in folders, and in archives as COCO publishes them."""
    source = COCO_PATH
    folders, archives = (tmp_path_factory.mktemp(name) for name in ("folders", "archives"))
    for root in (folders, archives):
        (root / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        name = f"annotations/instances_{split}.json"
        content = json.loads((source / name).read_text())
        content["images"] = content["images"][:6]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        for root in (folders, archives):
            (root / name).write_text(json.dumps(content))
        for image in content["images"]:
            target = folders / split / image["file_name"]
            target.parent.mkdir(exist_ok=True)
            put(source / split, image["file_name"], target)
        (archives / split).symlink_to(folders / split)
        zip_folder(archives / split)
        (archives / split).unlink()
    return folders, archives


@pytest.fixture(scope="module")
def backbone_weights(tmp_path_factory):
    """A ResNet-50 state dict on disk whose frozen batch norm keeps activations small."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    resnet = torchvision.models.resnet50(weights=None, zero_init_residual=True)
    torch.save(resnet.state_dict(), path)
    return path


@torch.no_grad()
def detections(root, workers, checkpoint, args) -> list[dict]:
    """Everything that the checkpoint's model finds on the validation images under `root`."""
    options = args(*COMMON, *SMALL_MODEL, "--coco_path", root, "--eval", "--resume", checkpoint,
                   "--num_workers", workers)  # fmt: skip
    _, loader = build_loaders(options)
    loader.dataset[0]  # the parent process has read from the archive before its workers do
    model, _, postprocessors = build_model(options)
    load_weights(model, load_checkpoint(checkpoint), checkpoint)
    model.eval()
    found = []
    for samples, targets in loader:
        sizes = torch.stack([target["orig_size"] for target in targets])
        found += postprocessors["bbox"](model(samples), sizes)
    return found


@pytest.mark.nightly
def test_training_and_evaluation_are_the_same_from_folders_and_archives(
    data, backbone_weights, args, tmp_path
):
    results = []
    for i, (root, workers) in enumerate(zip(data, ("0", "8"), strict=True)):
        out = tmp_path / str(i)
        trained = run_ok(
            MAIN, *COMMON, *SMALL_MODEL, "--coco_path", root, "--output_dir", out, "--epochs",
            "1", "--backbone_weights", backbone_weights, "--num_workers", workers, timeout=1500,
        )  # fmt: skip
        evaluated = run_ok(
            MAIN, *COMMON, *SMALL_MODEL, "--coco_path", root, "--eval", "--resume",
            out / "checkpoint.pth", "--num_workers", workers, "--output_dir", out / "eval_only",
            timeout=1500,
        )  # fmt: skip
        numbers = re.findall(r"^epoch 1/1  \d.*", trained.stdout, re.MULTILINE)[-1]
        weights = load_checkpoint(str(out / "checkpoint.pth"))["model"]
        found = detections(root, workers, str(out / "checkpoint.pth"), args)
        results.append((numbers, weights, found, evaluated.stdout.split("IoU metric")[-1]))
    (line, weights, found, table), (other_line, other_weights, other_found, other_table) = results
    assert line.split("  ")[2] == other_line.split("  ")[2]
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    assert len(found) == len(other_found) == 6
    for image, other_image in zip(found, other_found, strict=True):
        assert all(torch.equal(image[name], other_image[name]) for name in image)
    assert table == other_table


def test_published_command_for_evaluation(data, args, tmp_path):
    """A checkpoint as the published code writes it, all layers, with the published options."""
    options = args("--enc_rpe2d", RPE, "--resume", "c.pth")
    model, _, _ = build_model(options)
    published = vars(options)
    for newer in ("backbone_weights", "num_classes", "image_size", "augment", "eval_every",
                  "coco_eval", "group_by_shape"):  # fmt: skip
        del published[newer]
    path = tmp_path / "rpe-2.0-product-ctx-1-k.pth"
    torch.save({"model": model.state_dict(), "epoch": 149, "args": options}, path)
    result = run_ok(
        "-m", "torch.distributed.launch", "--nproc_per_node=1", "--use_env", MAIN, "--lr_drop",
        "100", "--epochs", "150", "--coco_path", data[1], "--enc_rpe2d", RPE, "--output_dir",
        tmp_path / "output", "--eval", "--resume", path, timeout=1500,
    )  # fmt: skip
    assert result.stdout.count("Average Precision") == 6


def test_masks_on_real_images(data, backbone_weights, tmp_path):
    """Polygons and run lengths as COCO has them; all 100 queries' masks are scored."""
    run_ok(
        MAIN, *COMMON, "--enc_layers", "1", "--dec_layers", "1", "--coco_path", data[1],
        "--masks", "--output_dir", tmp_path, "--epochs", "1", "--num_workers", "2",
        "--backbone_weights", backbone_weights, "--image_size", "400", timeout=1500,
    )  # fmt: skip
    (row,) = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert 0 < row["train_loss_mask"] < 1 and 0 < row["test_loss_dice"] <= 1
    assert len(row["test_coco_eval_masks"]) == 12
    result = run_ok("tools/show_run.py", tmp_path, "--images", "2", "--threshold", "0.02",
                    timeout=600)  # fmt: skip
    assert result.stdout.count("\nIoU metric: ") == 2 and (tmp_path / "detections.png").exists()
