"""The data set that needs no download."""

import pytest
from conftest import error_line, make_shapes
from pycocotools.coco import COCO


def test_shapes_are_the_same_bytes_every_time(shapes, tmp_path):
    again = make_shapes(tmp_path / "again", "--train", "16", "--val", "13", "--size", "64")
    files = sorted(path.relative_to(shapes) for path in shapes.rglob("*") if path.is_file())
    assert len(files) == 16 + 13 + 2
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
