"""Data sets for tests: drawn, packed as archives, or real ones of COCO where there are any."""

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.helpers.tool_runs import run_tool

COCO_PATH = Path(os.environ.get("COCO_PATH", ""))


def why_not() -> str:
    """Return why tests with real images cannot run; empty if they can."""
    wanted = [f"annotations/instances_{split}2017.json" for split in ("train", "val")]
    if not os.environ.get("COCO_PATH"):
        return f"COCO_PATH is not set: a folder with {', '.join(wanted)} and their images"
    lacks = [name for name in wanted if not (COCO_PATH / name).is_file()]
    return f"COCO_PATH={COCO_PATH} lacks {', '.join(lacks)}" if lacks else ""


needs_coco = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it is there")


def make_shapes(out: Path, *options: str) -> Path:
    """Draw a data set with tools/make_shapes.py; returns its folder."""
    from tools import make_shapes as tool

    run = run_tool(tool, out, *options)
    assert run.code == 0, run
    return out


def zip_folder(folder, names=None, compression=zipfile.ZIP_STORED):
    """Pack a split as COCO publishes it: members <folder>/<file>."""
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w", compression) as archive:
        for file in sorted(folder.iterdir()):
            if names is None or file.name in names:
                archive.write(file, f"{folder.name}/{file.name}")


def assert_same_samples(left, right):
    for (image, target), (other_image, other_target) in zip(left, right, strict=True):
        assert torch.equal(image, other_image)
        assert target.keys() == other_target.keys()
        assert all(torch.equal(target[key], other_target[key]) for key in target)


def make_split(tmp_path, objects, size=(40, 30), **image):
    """Write a data set of one image of the given size with these annotations."""
    (tmp_path / "images").mkdir(exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "images" / "a.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png", **image}],
        "annotations": [{"id": i, "image_id": 7, **entry} for i, entry in enumerate(objects)],
        "categories": [{"id": i, "name": f"c{i}"} for i in range(5)],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    return tmp_path / "images", path
