"""The data set that needs no download."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from datasets.masks import rgb2id
from tests.helpers.commands import error_line, run_ok
from tests.helpers.data import make_shapes


def test_shapes_are_the_same_bytes_every_time(shapes, tmp_path):
    again = tmp_path / "again"
    run_ok("tools/make_shapes.py", again, "--train", "16", "--val", "13", "--size", "80")
    files = sorted(path.relative_to(shapes) for path in shapes.rglob("*") if path.is_file())
    assert len(files) == 16 + 13 + 2  # nothing panoptic
    assert all((again / f).read_bytes() == (shapes / f).read_bytes() for f in files)
    assert "not empty" in error_line("tools/make_shapes.py", again)


def test_shapes_are_annotated_where_they_are(tmp_path):
    """Boxes, areas and polygons agree; crowds and empty images occur."""
    out = make_shapes(tmp_path / "s", "--train", "1", "--val", "150", "--aspect", "1.5")
    coco = COCO(out / "annotations" / "instances_val2017.json")
    crowds = [a for a in coco.anns.values() if a["iscrowd"]]
    assert crowds
    assert any(image not in coco.imgToAnns for image in coco.imgs)
    assert len({a["category_id"] for a in coco.anns.values()}) == 5
    for annotation in coco.anns.values():
        x, y, w, h = annotation["bbox"]
        image = coco.imgs[annotation["image_id"]]
        assert x >= 0 and y >= 0 and x + w <= image["width"] and y + h <= image["height"]
        mask = coco.annToMask(annotation)
        assert mask.sum() == pytest.approx(annotation["area"], rel=0.2)
        rows, cols = mask.nonzero()
        for edge, pixel in zip((x, y, x + w, y + h),
                               (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1),
                               strict=True):  # fmt: skip
            assert abs(edge - pixel) <= 2.5  # a tip may cover no pixel's centre


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "panoptic"
    return make_shapes(out, "--panoptic", "--train", "4", "--val", "120", "--aspect", "1.5")


def test_without_panoptic_nothing_has_changed(tmp_path):
    """The annotations are those of the tool before it knew of --panoptic."""
    shapes = make_shapes(tmp_path / "shapes", "--train", "16", "--val", "13", "--size", "64")
    content = (shapes / "annotations" / "instances_train2017.json").read_bytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "a450584d5578c179"


@pytest.mark.slow
def test_panoptic_bytes_are_the_same_every_time(panoptic, tmp_path):
    again = make_shapes(tmp_path / "again", "--panoptic", "--train", "4", "--aspect", "1.5",
                        "--val", "1")  # fmt: skip
    files = sorted(path.relative_to(panoptic) for path in panoptic.rglob("*train2017*/*"))
    assert len(files) == 2 * 4
    for file in (*files, "annotations/panoptic_train2017.json"):
        assert (again / file).read_bytes() == (panoptic / file).read_bytes()


def maps(panoptic) -> tuple[dict, dict]:
    """panoptic_val2017.json, and by image id (ids, segments)."""
    content = json.loads((panoptic / "annotations" / "panoptic_val2017.json").read_text())
    found = {}
    for entry in content["annotations"]:
        assert entry["file_name"] == f"{entry['image_id']:012}.png"
        with Image.open(panoptic / "panoptic_val2017" / entry["file_name"]) as png:
            found[entry["image_id"]] = rgb2id(np.asarray(png)), entry["segments_info"]
    return content, found


def test_panoptic_maps_and_their_segments_agree(panoptic):
    content, images = maps(panoptic)
    things = {c["id"]: c["isthing"] for c in content["categories"]}
    assert things == {**dict.fromkeys(range(1, 6), 1), **dict.fromkeys((91, 92, 93), 0)}
    colours = {tuple(c["color"]) for c in content["categories"]}
    assert len(colours) == len({c["name"] for c in content["categories"]}) == 8
    assert [image["id"] for image in content["images"]] == list(images)
    grounds, without_void = Counter(), 0
    for image, (ids, segments) in zip(content["images"], images.values(), strict=True):
        assert ids.shape == (image["height"], image["width"])
        listed = {segment["id"] for segment in segments}
        assert len(listed) == len(segments) and min(listed) > 255
        assert set(np.unique(ids).tolist()) - {0} == listed
        for segment in segments:
            rows, columns = (ids == segment["id"]).nonzero()
            low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
            assert segment["area"] == len(rows)
            assert segment["bbox"] == [*low, high[0] - low[0], high[1] - low[1]]
            assert not segment["iscrowd"] or things[segment["category_id"]]
        stuff = [s["category_id"] for s in segments if not things[s["category_id"]]]
        assert len(set(stuff)) == len(stuff)
        grounds[len(stuff)] += 1
        without_void += bool((ids > 0).all())
    assert set(grounds) == {1, 2} and min(grounds.values()) > 30
    assert 80 < without_void < 115


def test_panoptic_things_are_the_instances(panoptic):
    """Each object's segment has its category and lies where its outline is."""
    _, images = maps(panoptic)
    coco = COCO(panoptic / "annotations" / "instances_val2017.json")
    crowds = hidden = 0
    for image_id, (ids, segments) in images.items():
        instances = coco.imgToAnns.get(image_id, [])
        things = [segment for segment in segments if segment["category_id"] <= 90]
        assert len(things) == len(instances)
        for thing, instance in zip(things, instances, strict=True):  # both in order of drawing
            assert thing["category_id"] == instance["category_id"]
            assert thing["iscrowd"] == instance["iscrowd"]
            mask, seen = coco.annToMask(instance) == 1, ids == thing["id"]
            assert (seen & mask).sum() > 0.7 * seen.sum()  # outlines are filled otherwise at edges
            crowds += thing["iscrowd"]
            hidden += seen.sum() < 0.9 * mask.sum()
    assert crowds and hidden < 10


def test_panoptic_data_of_two_shapes(tmp_path):
    out = make_shapes(tmp_path / "two", "--train", "1", "--val", "1", "--panoptic", "--classes",
                      "disc", "square")  # fmt: skip
    content = json.loads((out / "annotations" / "panoptic_train2017.json").read_text())
    things = [c["name"] for c in content["categories"] if c["isthing"]]
    assert things == ["disc", "square"] and len(content["categories"]) > 2
