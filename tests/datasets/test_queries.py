"""Images with more objects than queries, told before training and by check_data."""

import json

import pytest
from PIL import Image

from datasets.annotations import read_annotations
from datasets.validation.queries import too_few_queries
from tests.helpers.tool_runs import result_lines, run_tool
from tools import check_data

OBJECTS = {4: 2, 7: 5, 9: 3, 11: 0}  # by image id; image 9 has a crowd besides


@pytest.fixture
def folder(tmp_path):
    annotations, box = [], {"bbox": [1, 2, 3, 4], "area": 12, "category_id": 1}
    for image_id, count in OBJECTS.items():
        crowds = [0] * count + [1] * (image_id == 9)
        annotations += [
            {"id": 100 * image_id + i, "image_id": image_id, "iscrowd": crowd, **box}
            | ({"segmentation": {"size": [20, 30], "counts": [600]}} if crowd else {})
            for i, crowd in enumerate(crowds)
        ]
    images = [
        {"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in reversed(OBJECTS)
    ]
    content = {
        "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}],
    }  # fmt: skip
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        for image in images:
            Image.new("RGB", (30, 20)).save(tmp_path / split / image["file_name"])
        path = tmp_path / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return tmp_path


def test_images_with_more_objects_than_queries(folder):
    path = folder / "annotations" / "instances_train2017.json"
    annotations, _ = read_annotations(path)
    assert annotations.object_counts().tolist() == [2, 5, 3, 0]
    assert too_few_queries(annotations, 5) is None
    assert too_few_queries(annotations, 3) == (
        "1 of 4 training images have more than --num_queries 3 objects, at most 5: the rest cannot "
        "be found; --num_queries 5 is enough for all"
    )
    assert too_few_queries(annotations, 2).startswith("2 of 4 training images")


def test_check_data_names_them(folder):
    run = run_tool(check_data, folder, "--split", "train", "--num_queries", "2", "--jobs", "1")
    assert run.code == 0
    (note,) = (line for line in result_lines(run.out) if line.startswith("note"))
    assert note.endswith("of which it cannot find more: 2, image 7 (5), 9 (3)")
    run = run_tool(check_data, folder, "--split", "train", "--jobs", "1")
    assert result_lines(run.out) == ["errors: 0, notes: 0"]
