"""Annotation files: what is refused, and that the arrays hold what the file says."""

import json
import pickle

import pytest
import torch
from pycocotools.coco import COCO

from datasets.annotations.instances import load_annotations
from datasets.annotations.store import PackedBytes
from datasets.coco import CocoDetection
from datasets.transforms import make_coco_transforms
from tests.helpers.data import make_split
from util.errors import UserError


def content_with(**changes) -> str:
    """A good file of one image and one annotation, with changes to the annotation."""
    annotation = {"id": 5, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], **changes}
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.png"}],
            "annotations": [annotation],
            "categories": [{"id": i, "name": str(i)} for i in (-1, 1, 6)],
        }
    )


def test_a_category_needs_a_class(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(content_with(category_id=-1))
    with pytest.raises(UserError, match=r"category_id -1, the model has classes 0 to 3$") as error:
        load_annotations(path, num_classes=4)
    assert str(path) in str(error.value)


def test_a_file_may_begin_with_a_mark_of_the_order_of_bytes(tmp_path):
    """Editors on Windows write a byte order mark."""
    path = tmp_path / "instances.json"
    path.write_bytes(b"\xef\xbb\xbf" + content_with().encode())
    assert load_annotations(path).boxes.tolist() == [[1, 2, 3, 4]]


def test_any_category_without_a_model(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(content_with(category_id=6))
    assert load_annotations(path).labels.tolist() == [6]


@pytest.fixture
def messy(tmp_path):
    """Images and annotations in no order, ints and floats mixed, fields left out."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randperm(40, generator=generator).tolist()
    images = [
        {"id": i, "file_name": f"ä{i}.png", **({"height": 50 + i, "width": 60} if i % 3 else {})}
        for i in ids
    ]
    annotations = []
    for number in torch.randperm(150, generator=generator).tolist():
        x, y, w, h = (torch.rand(4, generator=generator, dtype=torch.float64) * 50).tolist()
        annotation = {"id": number, "image_id": number * 7 % 45, "category_id": number % 6,
                      "bbox": [x, int(y), w, h]}  # fmt: skip
        if number % 4:
            annotation["area"] = w * h * 0.3 if number % 3 else 17
        if number % 5:
            annotation["iscrowd"] = int(number % 10 == 1)
        if number % 2:
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, 0.1, 1]]
        annotations.append(annotation)
    path = tmp_path / "instances.json"
    categories = [{"id": i, "name": str(i)} for i in range(6)]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    (tmp_path / "images").mkdir()
    return CocoDetection(tmp_path / "images", path, make_coco_transforms(), True)


def test_targets_are_those_of_the_file_to_the_last_bit(messy):
    coco = COCO(messy.annotations.path)
    messy.return_masks = False  # some annotations have no outline
    assert len(messy) == len(coco.imgs) == 40
    for index, image_id in enumerate(sorted(coco.imgs)):
        objects = [a for a in coco.imgToAnns[image_id] if not a.get("iscrowd", 0)]
        boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        areas = [a.get("area", a["bbox"][2] * a["bbox"][3]) for a in objects]
        target = messy.target(index, 60, 50)
        assert torch.equal(target["boxes"], boxes.clamp(max=torch.tensor([60, 50, 60, 50])))
        assert target["labels"].tolist() == [a["category_id"] for a in objects]
        assert torch.equal(target["area"], torch.tensor(areas, dtype=torch.float32))
        assert target["image_id"].item() == image_id
        assert target["orig_size"].tolist() == [50, 60]
        assert messy.annotations.file_name(index) == f"ä{image_id}.png"
        assert messy.annotations.heights[index] == coco.imgs[image_id].get("height", 0)


def test_scoring_sees_what_the_file_says(messy):
    coco = COCO(messy.annotations.path)
    content = messy.annotations.for_scoring()
    assert sorted(image["id"] for image in content["images"]) == sorted(coco.imgs)
    assert content["categories"] == coco.dataset["categories"]
    found = {annotation["id"]: annotation for annotation in content["annotations"]}
    known = {n: a for n, a in coco.anns.items() if a["image_id"] in coco.imgs}
    assert found.keys() == known.keys() and len(known) < len(coco.anns)
    for number, annotation in known.items():
        area = annotation["bbox"][2] * annotation["bbox"][3]
        wanted = {"area": area, "iscrowd": 0, **annotation}
        wanted.pop("segmentation", None)
        assert found[number] == wanted
    # In an image, equal overlaps are told apart by the order in the file.
    for image_id in coco.imgs:
        order = [a["id"] for a in content["annotations"] if a["image_id"] == image_id]
        assert order == [a["id"] for a in coco.imgToAnns[image_id]]


def test_outlines_are_kept_only_if_asked_for(messy):
    coco = COCO(messy.annotations.path)
    kept = messy.annotations
    for number, annotation_id in enumerate(kept.ids):
        annotation = coco.anns[annotation_id]
        if "segmentation" in annotation:
            assert kept.segmentation(number) == annotation["segmentation"]
        else:
            with pytest.raises(UserError, match=f"annotation {annotation_id} has no segmentation"):
                kept.segmentation(number)
    assert load_annotations(kept.path).segmentations is None


def test_masks_of_a_file_without_sizes_are_those_of_the_image(tmp_path):
    outline = {"category_id": 1, "bbox": [0, 0, 4, 4], "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
    images, path = make_split(tmp_path, [outline])
    masks = CocoDetection(images, path, make_coco_transforms("none", 30), True)[0][1]["masks"]
    assert masks.shape == (1, 30, 40) and masks.sum() == 16


def test_no_object_per_image_or_annotation(messy):
    """Reference counts would make each forked loader process copy them in time."""
    for name, value in vars(messy.annotations).items():
        parts = vars(value).values() if isinstance(value, PackedBytes) else [value]
        for part in parts:
            assert name in ("path", "categories") or part.dtype != object, name
    messy.return_masks = False
    again = pickle.loads(pickle.dumps(messy))  # as spawned loader processes get it
    assert torch.equal(again.target(7, 60, 50)["boxes"], messy.target(7, 60, 50)["boxes"])


def test_byte_table():
    items = [b"", b"ab", b"\xff\x00", b"", b"c"]
    table = PackedBytes(iter(items))
    assert [table[i] for i in range(len(table))] == items
    assert len(PackedBytes([])) == 0
