"""Where tests find real images of COCO, if they do."""

import os
from pathlib import Path

import pytest

COCO_PATH = Path(os.environ.get("COCO_PATH", ""))


def why_not() -> str:
    """Why tests with real images cannot run; empty if they can."""
    wanted = [f"annotations/instances_{split}2017.json" for split in ("train", "val")]
    if not os.environ.get("COCO_PATH"):
        return f"COCO_PATH is not set: a folder with {', '.join(wanted)} and their images"
    lacks = [name for name in wanted if not (COCO_PATH / name).is_file()]
    return f"COCO_PATH={COCO_PATH} lacks {', '.join(lacks)}" if lacks else ""


needs_coco = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it is there")
