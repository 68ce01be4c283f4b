"""Data of any COCO-format layout, ids and names, from the folder to the checkpoint's detections."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import build_dataset
from datasets.annotations.categories import MAX_UNUSED, classes_for, number_labels
from datasets.annotations.instances import load_annotations
from datasets.layouts import find_split
from detector import load_detector
from models import build_model
from tests.helpers.commands import MAIN, ROOT, TINY_RUN, answer_of_main, run_ok
from tests.helpers.data import COCO_PATH, make_shapes, needs_coco
from util.checkpoint import load_checkpoint
from util.errors import UserError

RUN = [MAIN, *TINY_RUN, "--epochs", "1", "--batch_size", "2"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """Roboflow's layout: zero-based ids, the first of which names the project."""
    out = tmp_path_factory.mktemp("data") / "exported"
    return make_shapes(out, "--train", "6", "--val", "4", "--size", "80", "--layout", "roboflow",
                       "--classes", "star", "arrow", "moon")  # fmt: skip


def with_ids(root: Path, out: Path, ids: dict[int, int]) -> Path:
    """A copy of a folder in COCO's layout with other category ids."""
    shutil.copytree(root, out)
    for file in (out / "annotations").iterdir():
        content = json.loads(file.read_text())
        for entry in content["categories"]:
            entry["id"] = ids[entry["id"]]
        for annotation in content["annotations"]:
            annotation["category_id"] = ids[annotation["category_id"]]
        file.write_text(json.dumps(content))
    return out


def test_both_layouts_and_named_files_are_the_same_data(exported, args, tmp_path):
    as_coco = tmp_path / "coco"
    (as_coco / "annotations").mkdir(parents=True)
    for name, split in (("train", "train"), ("valid", "val")):
        shutil.copytree(exported / name, as_coco / f"{split}2017")
        (as_coco / f"{split}2017" / "_annotations.coco.json").rename(
            as_coco / "annotations" / f"instances_{split}2017.json"
        )
    named = [
        "--train_images", exported / "train", "--train_ann",
        as_coco / "annotations" / "instances_train2017.json", "--val_images",
        as_coco / "val2017", "--val_ann", exported / "valid" / "_annotations.coco.json",
    ]  # fmt: skip
    for split, count in (("train", 6), ("val", 4)):
        samples = [
            [build_dataset(split, args(*options, "--image_size", "64", "--augment", "flip"))[i]
             for i in range(count)]
            for options in (["--coco_path", exported], ["--coco_path", as_coco], named)
        ]  # fmt: skip
        for one, *others in zip(*samples, strict=True):
            for other in others:
                assert torch.equal(one[0], other[0])
                assert torch.equal(one[1]["boxes"], other[1]["boxes"])
                assert torch.equal(one[1]["labels"], other[1]["labels"])


def test_named_files_go_before_a_folder(exported, shapes, args):
    options = args("--coco_path", shapes, "--val_images", exported / "valid", "--val_ann",
                   exported / "valid" / "_annotations.coco.json")  # fmt: skip
    assert find_split("train", options).images == shapes / "train2017"
    assert find_split("val", options).images == exported / "valid"
    (exported / "val").mkdir()  # some exports call it so
    try:
        (exported / "valid").rename(exported / "aside")
        shutil.copy(exported / "aside" / "_annotations.coco.json", exported / "val")
        assert find_split("val", args("--coco_path", exported)).images == exported / "val"
    finally:
        shutil.rmtree(exported / "val")
        (exported / "aside").rename(exported / "valid")


def test_names_and_classes_come_from_the_file_and_travel(exported, tmp_path):
    run_ok(*RUN, "--coco_path", exported, "--output_dir", tmp_path)
    checkpoint = load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert checkpoint["args"].num_classes == 4
    assert checkpoint["classes"] == {0: "shapes", 1: "star", 2: "arrow", 3: "moon"}
    assert checkpoint["model"]["class_embed.weight"].shape == (5, 32)
    # Evaluated, and gone on with, without being told the classes again.
    common = [*RUN, "--coco_path", exported, "--resume", tmp_path / "checkpoint.pth"]
    run_ok(*common, "--eval")
    run_ok(*common, "--epochs", "2", "--output_dir", tmp_path)
    result = run_ok(ROOT / "tools" / "check_data.py", exported)
    assert "errors: 0" in result.stdout


@pytest.mark.slow
def test_sparse_ids_are_numbered_and_come_back(shapes, tmp_path):
    ids = {1: 10**9, 2: 7, 3: 123456, 4: 0, 5: 2**40}
    data = with_ids(shapes, tmp_path / "sparse", ids)
    out = tmp_path / "out"
    run_ok(*RUN, "--coco_path", data, "--output_dir", out)
    checkpoint = load_checkpoint(str(out / "checkpoint.pth"))
    names = {0: "star", 1: "square", 2: "triangle", 3: "disc", 4: "plus"}
    assert checkpoint["args"].category_ids == sorted(ids.values())
    assert checkpoint["args"].num_classes == 5 and checkpoint["classes"] == names
    resumed = run_ok(*RUN, "--coco_path", data, "--resume", out / "checkpoint.pth", "--eval")
    # The same data under ids of its own: the numbers are the same, too.
    plain = tmp_path / "plain"
    dense = with_ids(
        shapes, tmp_path / "dense", {i: sorted(ids.values()).index(ids[i]) for i in ids}
    )
    run_ok(*RUN, "--coco_path", dense, "--output_dir", plain)
    log, other = ((folder / "log.txt").read_text() for folder in (out, plain))
    assert log == other
    assert resumed.stdout.count("Average Precision") == 6

    image = next((data / "val2017").iterdir())
    shutil.rmtree(data)  # the checkpoint is enough
    detector = load_detector(out / "checkpoint.pth", "cpu")
    (found,) = detector(Path(shapes) / "val2017" / image.name, threshold=0)
    assert len(found["names"]) == 8
    assert found["names"] == [names[label] for label in found["labels"].tolist()]
    run_ok("tools/predict.py", "--resume", out / "checkpoint.pth", shapes / "val2017" / image.name,
           "--threshold", "0", "--output_dir", tmp_path / "drawn", "--device", "cpu")  # fmt: skip
    results = json.loads((tmp_path / "drawn" / "results.json").read_text())
    wanted = [sorted(ids.values())[label] for label in found["labels"].tolist()]
    assert [entry["category_id"] for entry in results] == wanted


@pytest.mark.slow
@needs_coco
def test_five_of_cocos_classes(args, tmp_path):
    """From a detector of all classes, as published: it names none. Used without the data."""
    ids = {1: "person", 3: "car", 44: "bottle", 62: "chair", 84: "book"}
    source, options = COCO_PATH, []
    for split in ("train", "val"):
        content = json.loads((source / "annotations" / f"instances_{split}2017.json").read_text())
        for kind, key in (("categories", "id"), ("annotations", "category_id")):
            content[kind] = [entry for entry in content[kind] if entry[key] in ids]
        seen = {annotation["image_id"] for annotation in content["annotations"]}
        content["images"] = [image for image in content["images"] if image["id"] in seen][:10]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
        options += [f"--{split}_images", source / f"{split}2017"]
        options += [f"--{split}_ann", tmp_path / f"{split}.json"]
    photo = shutil.copy(source / "val2017" / content["images"][0]["file_name"], tmp_path)

    torch.manual_seed(0)
    published = args(*TINY_RUN, "--num_classes", "91")
    before = build_model(published)[0].state_dict()
    del published.category_ids, published.given
    torch.save({"model": before, "args": published}, tmp_path / "published.pth")
    result = run_ok(
        MAIN, "--finetune", tmp_path / "published.pth", *options, "--output_dir", tmp_path / "out",
        "--epochs", "1", "--batch_size", "2", "--num_workers", "0", "--device", "cpu",
        "--lr", "0", "--lr_backbone", "1e-30", "--weight_decay", "0",
    )  # fmt: skip
    names = ", ".join(ids.values())
    assert "classes: 5 known by name, 0 new" in result.stdout
    report = (tmp_path / "out" / "finetune.txt").read_text()
    assert f"rows carried over by name: no-object, {names}; new: none" in report
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").unlink()

    detector = load_detector(tmp_path / "out" / "checkpoint.pth", "cpu")
    assert detector.names == ids and detector.args.num_classes == 85
    after = detector.model.state_dict()["class_embed.bias"]
    for here, there in (*zip(ids, ids, strict=True), (-1, -1)):
        assert after[here] == before["class_embed.bias"][there]
    run_ok("tools/predict.py", "--resume", tmp_path / "out" / "checkpoint.pth", photo,
           "--threshold", "0", "--output_dir", tmp_path / "drawn", "--device", "cpu")  # fmt: skip
    results = json.loads((tmp_path / "drawn" / "results.json").read_text())
    (found,) = detector(photo, threshold=0)
    assert [entry["category_id"] for entry in results] == found["labels"].tolist()
    for label, name in zip(found["labels"].tolist(), found["names"], strict=True):
        assert name == ids.get(label, f"class {label}")


def annotations_of(path: Path, category_ids: list[int], used: list[int]):
    images = [{"id": 1, "file_name": "a.jpg", "height": 9, "width": 9}]
    objects = [
        {"id": i, "image_id": 1, "category_id": c, "bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0}
        for i, c in enumerate(used, start=1)
    ]
    categories = [{"id": c, "name": f"n{c}"} for c in category_ids]
    path.write_text(
        json.dumps({"images": images, "annotations": objects, "categories": categories})
    )
    return load_annotations(path)


def test_when_ids_are_labels(tmp_path):
    file = tmp_path / "a.json"
    for ids, wanted in (
        ([0, 1, 2], (3, None)),
        ([3, 90], (91, None)),
        ([5, MAX_UNUSED + 1], (MAX_UNUSED + 2, None)),
        ([5, MAX_UNUSED + 2], (2, [5, MAX_UNUSED + 2])),
    ):
        assert classes_for(annotations_of(file, ids, [])) == wanted
    with pytest.raises(UserError, match=r"a\.json: lists no categories"):
        classes_for(annotations_of(file, [], []))
    with pytest.raises(UserError, match="category id -4 is negative"):
        classes_for(annotations_of(file, [-4, 4], []))


def test_categories_that_only_one_split_has(tmp_path):
    known = annotations_of(tmp_path / "a.json", [7, 900000, 5], [900000, 5, 900000])
    number_labels(known, [5, 900000])
    assert np.array_equal(known.labels, [1, 0, 1])
    assert known.categories == [{"id": 1, "name": "n900000"}, {"id": 0, "name": "n5"}]
    strange = annotations_of(tmp_path / "a.json", [7, 5], [5, 7])
    with pytest.raises(UserError, match=r"annotation 2 has category_id 7, for which .* 5, 900000"):
        number_labels(strange, [5, 900000])


def test_mistakes(exported, shapes, tmp_path):
    for options, says in (
        (["--train_images", exported / "train"], "--train_ann is missing"),
        (["--train_ann", exported / "x.json", "--train_images", exported], "x.json: no such file"),
        (["--coco_path", tmp_path], "nor is there"),
        ([], "--coco_path is missing"),
    ):
        assert says in answer_of_main(*options)
    # Ids as labels leave room for one class too few.
    data = with_ids(shapes, tmp_path / "more", {1: 1, 2: 2, 3: 3, 4: 4, 5: 50})
    (data / "annotations" / "instances_train2017.json").write_text(
        (shapes / "annotations" / "instances_train2017.json").read_text()
    )
    line = answer_of_main("--coco_path", data)
    assert "category_id 50, the model has classes 0 to 5" in line
