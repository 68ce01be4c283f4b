"""Data sets for tests: drawn, packed as archives, or real ones of COCO where there are any."""

import contextlib
import importlib
import io
import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.helpers.commands import ROOT

COCO_PATH = Path(os.environ.get("COCO_PATH", ""))


def why_not() -> str:
    """Why tests with real images cannot run; empty if they can."""
    wanted = [f"annotations/instances_{split}2017.json" for split in ("train", "val")]
    if not os.environ.get("COCO_PATH"):
        return f"COCO_PATH is not set: a folder with {', '.join(wanted)} and their images"
    lacks = [name for name in wanted if not (COCO_PATH / name).is_file()]
    return f"COCO_PATH={COCO_PATH} lacks {', '.join(lacks)}" if lacks else ""


needs_coco = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it is there")


def make_shapes(out: Path, *options: str) -> Path:
    """A data set that tools/make_shapes.py draws, in this process."""
    folder = str(ROOT / "tools")
    if folder not in sys.path:
        sys.path.append(folder)
    tool = importlib.import_module("make_shapes")
    command = ["make_shapes.py", *map(str, (out, *options))]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(sys, "argv", command)
        tool.main()
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
    """One image of the given size with these annotations."""
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
