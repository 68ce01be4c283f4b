"""Samples of panoptic data sets: targets, transforms, and what scoring is given."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets import build_dataset
from datasets.annotations.panoptic import load_panoptic_annotations
from datasets.annotations.store import PackedBytes
from datasets.coco_panoptic import CocoPanoptic, instances_for_scoring
from datasets.masks import id2rgb
from main import build_loaders
from tests.helpers.data import assert_same_samples, zip_folder
from tests.helpers.panoptic_data import (
    Picture,
    annotation_file,
    dataset_of,
    known_picture,
    options,
    random_picture,
    write_split,
)
from util.errors import UserError


@pytest.fixture
def known(tmp_path):
    """Write the known picture twice: ids of segments are unique within an image only."""
    return write_split(tmp_path, [known_picture(), known_picture()])


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """Eight training and three validation images of different sizes."""
    root = tmp_path_factory.mktemp("panoptic")
    write_split(root, [random_picture(number) for number in range(8)])
    return write_split(root, [random_picture(number) for number in range(8, 11)], "val")


# ---- targets ----


def test_a_target_worked_out_by_hand(known):
    target = dataset_of(known).target(0, 40, 30)
    assert target["boxes"].tolist() == [[10, 15, 30, 25], [5, 0, 40, 10], [0, 20, 40, 30]]
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [3, 60, 77] and target["labels"].dtype == torch.int64
    assert target["area"].tolist() == [200, 2 * 35 + 8 * 2, 400 - 5 * 20]
    assert target["area"].dtype == torch.float32
    assert target["iscrowd"].tolist() == [0, 0, 0]
    masks = target["masks"]
    assert masks.shape == (3, 30, 40) and masks.dtype == torch.uint8
    assert masks[0, 15:25, 10:30].all() and masks[0].sum() == 200
    assert masks[1, :2, 5:].all() and masks[1, :10, 38:].all() and masks[1].sum() == 86
    assert masks[2, 25:].all() and masks[2].sum() == 300


def test_a_sample_has_what_those_of_other_data_have(known):
    image, target = dataset_of(known, size=60)[0]
    assert image.shape == (3, 60, 80)
    wanted = [[20 / 40, 20 / 30, 20 / 40, 10 / 30], [22.5 / 40, 5 / 30, 35 / 40, 10 / 30],
              [0.5, 25 / 30, 1, 10 / 30]]  # fmt: skip
    torch.testing.assert_close(target["boxes"], torch.tensor(wanted))
    assert all(type(value) is torch.Tensor for value in target.values())
    assert target["image_id"].item() == 1
    assert target["orig_size"].tolist() == [30, 40] and target["size"].tolist() == [60, 80]
    assert target["masks"].shape == (3, 60, 80) and target["masks"].dtype == torch.bool
    assert target["masks"].sum(dim=(1, 2)).tolist() == [800, 344, 1200]
    _, plain = dataset_of(known, size=60, return_masks=False)[0]
    assert "masks" not in plain and plain.keys() == target.keys() - {"masks"}
    assert all(torch.equal(plain[key], target[key]) for key in plain)


def test_targets_are_those_of_a_pixel_by_pixel_search(varied):
    dataset = dataset_of(varied)
    for index in range(len(dataset)):
        picture = random_picture(index)
        height, width = picture.ids.shape
        target = dataset.target(index, width, height)
        objects = [s for s in picture.segments
                   if not s["iscrowd"] and (picture.ids == s["id"]).any()]  # fmt: skip
        assert target["labels"].tolist() == [s["category_id"] for s in objects]
        for i, segment in enumerate(objects):
            ys, xs = np.nonzero(picture.ids == segment["id"])
            box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert target["boxes"][i].tolist() == box
            assert target["area"][i] == len(xs)
            assert np.array_equal(target["masks"][i], picture.ids == segment["id"])


def test_an_image_of_void_is_kept(tmp_path):
    nothing = np.zeros((30, 40), dtype=int)
    root = write_split(tmp_path, [Picture(nothing, []), Picture(nothing, [
        {"id": 4, "category_id": 1}])])  # fmt: skip
    for augment in ("none", "detr"):
        for image, target in dataset_of(root, augment):
            assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)
            assert target["masks"].shape == (0, *image.shape[1:])


def test_flips_and_crops_keep_masks_and_boxes_together(tmp_path):
    ids = np.zeros((120, 90), dtype=int)
    ids[20:60, 10:40] = 300
    root = write_split(tmp_path, [Picture(ids, [{"id": 300, "category_id": 3}])])
    dataset = dataset_of(root, "detr", 200)
    shapes, left, right = set(), 0, 0
    for epoch in range(40):
        dataset.set_epoch(epoch)
        image, target = dataset[0]
        height, width = image.shape[1:]
        shapes.add((height, width))
        if len(target["boxes"]) == 0:
            continue
        assert target["masks"].shape == (1, height, width)
        cx, cy, w, h = target["boxes"][0].tolist()
        left, right = left + (cx < 0.5), right + (cx > 0.5)
        edges = ((cx - w / 2) * width, (cy - h / 2) * height,
                 (cx + w / 2) * width, (cy + h / 2) * height)  # fmt: skip
        for mask in (target["masks"][0], image[0] > image[0].min() + 0.05):
            ys, xs = mask.nonzero(as_tuple=True)
            found = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert all(abs(edge - pixel.item()) < 3 for edge, pixel in zip(edges, found))
    assert len(shapes) > 15 and left > 5 and right > 5


# ---- files and processes ----


def test_archives_and_workers_give_the_same(varied, tmp_path, args):
    expected = list(build_dataset("train", args(*options(varied), "--image_size", 64)))
    for part, folders in (("coco", ("train2017",)), ("panoptic", ("panoptic_train2017",))):
        (tmp_path / part).mkdir()
        for folder in folders:
            (tmp_path / part / folder).symlink_to(varied / part / folder)
            zip_folder(tmp_path / part / folder)
            (tmp_path / part / folder).unlink()
    (tmp_path / "panoptic" / "annotations").symlink_to(varied / "panoptic" / "annotations")
    zipped = build_dataset("train", args(*options(tmp_path), "--image_size", 64))
    assert_same_samples(zipped, expected)  # the parent's handles are open now
    loader = DataLoader(zipped, batch_size=None, num_workers=4, multiprocessing_context="fork")
    assert_same_samples(loader, expected)


def test_loaders_of_main(varied, args):
    train, val = build_loaders(args(*options(varied), "--image_size", 64, "--num_workers", 2))
    assert isinstance(train.dataset, CocoPanoptic) and len(train) == 4
    assert sum(len(targets) for _, targets in train) == 8
    assert [t["image_id"].item() for _, targets in val for t in targets] == [1, 2, 3]
    assert not train.dataset.return_masks
    masks = args(*options(varied), "--masks")
    assert build_dataset("val", masks).return_masks


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P"])
def test_maps_in_all_kinds_that_keep_ids(known, kind):
    path = known / "panoptic" / "panoptic_train2017" / "1.png"
    wanted = dataset_of(known)[0][1]
    with Image.open(path) as image:
        if kind == "RGBA":
            image = image.convert("RGBA")
            image.putalpha(0)
        elif kind == "P":
            image = image.quantize(16)
        image.save(path)
    with Image.open(path) as image:
        assert image.mode == kind
    assert_same_samples([(torch.zeros(1), dataset_of(known)[0][1])], [(torch.zeros(1), wanted)])


def test_no_object_per_image_or_segment(known):
    """Reference counts would make each forked loader process copy them in time."""
    dataset = dataset_of(known)
    for name, value in vars(dataset.annotations).items():
        parts = vars(value).values() if isinstance(value, PackedBytes) else [value]
        assert name in ("path", "categories") or all(part.dtype != object for part in parts)
    again = pickle.loads(pickle.dumps(dataset))  # as spawned loader processes get it
    assert_same_samples(again, dataset)


# ---- scoring ----


def test_truth_has_all_segments(known):
    dataset = dataset_of(known, return_masks=False)
    ids, segments = dataset.truth(1)
    assert ids.dtype == np.int32 and np.array_equal(ids, known_picture().ids)
    assert segments == [
        {"id": 256**3 - 1, "category_id": 3, "iscrowd": False},
        {"id": 5, "category_id": 1, "iscrowd": True},
        {"id": 70_000, "category_id": 60, "iscrowd": False},
        {"id": 9, "category_id": 1, "iscrowd": False},
        {"id": 769, "category_id": 77, "iscrowd": False},
    ]
    assert [type(value) for value in segments[0].values()] == [int, int, bool]
    assert dataset.things() == {1, 3}
    for image_id in (0, 3):
        with pytest.raises(KeyError):
            dataset.truth(image_id)


def test_truth_finds_images_by_id(tmp_path):
    pictures = [random_picture(number) for number in range(3)]
    for picture, image_id in zip(pictures, (900, 7, 50), strict=True):
        picture.image = {"id": image_id}
        picture.annotation = {"image_id": image_id}
    dataset = dataset_of(write_split(tmp_path, pictures))
    for picture in pictures:
        ids, segments = dataset.truth(picture.image["id"])
        assert np.array_equal(ids, picture.ids)
        assert [s["id"] for s in segments] == [s["id"] for s in picture.segments]


def test_boxes_are_scored_against_instances_if_there_are_any(varied, args, tmp_path):
    (tmp_path / "annotations").mkdir()
    panoptic = load_panoptic_annotations(annotation_file(varied, "val"))
    parsed = args("--coco_path", tmp_path)
    assert instances_for_scoring(parsed, panoptic) is None
    path = tmp_path / "annotations" / "instances_val2017.json"

    def write(*image_ids):
        entries = [{"id": i, "image_id": i, "category_id": 400, "bbox": [1, 2, 3, 4],
                    "segmentation": [[1, 1, 9, 1, 9, 9]]} for i in image_ids]  # fmt: skip
        path.write_text(json.dumps({
            "images": [{"id": i, "file_name": "a", "height": 20, "width": 20} for i in image_ids],
            "annotations": entries,
            "categories": [{"id": 400, "name": "x"}]}))  # fmt: skip

    write(3, 1, 2)
    found = instances_for_scoring(parsed, panoptic)
    assert found.image_ids.tolist() == [1, 2, 3] and found.segmentations is None
    parsed.masks = True
    assert instances_for_scoring(parsed, panoptic).segmentation(0) == [[1, 1, 9, 1, 9, 9]]
    for image_ids, wanted in (((1, 2), (panoptic.path, path, 3)), ((1, 2, 3, 8), (path,
            panoptic.path, 8))):  # fmt: skip
        write(*image_ids)
        with pytest.raises(UserError) as error:
            instances_for_scoring(parsed, panoptic)
        assert str(error.value) == (
            f"{wanted[0]} and {wanted[1]} are not of the same images: the first lists image "
            f"{wanted[2]}, the second does not"
        )
    path.write_text("{")
    with pytest.raises(UserError, match="not a readable JSON"):
        instances_for_scoring(parsed, panoptic)


# ---- skipping ----


def test_bad_images_are_skipped_in_training_only(tmp_path, args, capfd):
    pictures = [random_picture(number) for number in range(5)]
    pictures[0].segments[0]["category_id"] = 90  # none of the file's
    for split in ("train", "val"):
        write_split(tmp_path, pictures, split)
        maps = tmp_path / "panoptic" / f"panoptic_{split}2017"
        (maps / "2.png").unlink()
        Image.fromarray(id2rgb(np.full((3, 3), 4))).save(maps / "4.png")
    parsed = args(*options(tmp_path), "--image_size", 64, "--skip_bad_images")
    train = build_dataset("train", parsed)
    loader = DataLoader(train, batch_size=None, num_workers=2)
    assert [target["image_id"].item() for _, target in loader] == [3, 3, 3, 5, 5]
    assert train.skipped() == [0, 1, 3]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("skipped: ") for line in lines)
    with pytest.raises(UserError, match=r"val2017\.json: segment .* of image 1 has category_id 90"):
        build_dataset("val", parsed)
    (tmp_path / "panoptic" / "panoptic_train2017.zip").write_bytes(b"PK no archive")
    with pytest.raises(UserError, match=r"panoptic_train2017\.zip: not a readable zip archive"):
        build_dataset("train", parsed)


def test_a_fault_in_a_loader_worker_stays_one_line(known):
    (known / "panoptic" / "panoptic_train2017" / "1.png").unlink()
    with pytest.raises(UserError) as error:
        list(DataLoader(dataset_of(known), batch_size=None, num_workers=1))
    wanted = f"1.png: image missing from {known / 'panoptic' / 'panoptic_train2017'}"
    assert str(error.value) == f"{annotation_file(known)}: image 1: {wanted}"
