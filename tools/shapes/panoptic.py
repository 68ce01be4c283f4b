"""Write panoptic annotations of shapes and patterns."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.masks import MAX_ID, VOID, id2rgb
from tools.shapes.annotations import bounds
from tools.shapes.backgrounds import PATTERNS

FIRST_STUFF = 91  # things have category ids up to 90, as in COCO
MIN_ID = 256  # so that ids take more than one channel of the PNGs
COLOURS = (
    [220, 20, 60], [0, 0, 142], [250, 170, 30], [153, 69, 1], [0, 226, 252],
    [146, 139, 141], [134, 199, 156], [196, 172, 0],
)  # fmt: skip


def categories(things: tuple[str, ...]) -> list[dict]:
    """Return COCO's category entries of the shapes, with ids from 1 on, and of the patterns."""
    kinds = [(i, name, 1, "shape") for i, name in enumerate(things, 1)]
    kinds += [(i, name, 0, "ground") for i, name in enumerate(PATTERNS, FIRST_STUFF)]
    return [
        {"id": i, "name": name, "isthing": isthing, "color": colour, "supercategory": above}
        for (i, name, isthing, above), colour in zip(kinds, COLOURS, strict=False)
    ]


def panoptic_segments(
    objects: list[dict], owners: np.ndarray, patterns: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, list[dict]]:
    """Return the visible segments of an image.

    Args:
        objects: n annotations.
        owners: (height, width), the object that a pixel belongs to, from 1 to n, or 0.
        patterns: (height, width), as from `backgrounds.patterned_background`.

    Returns:
        (height, width) int64, each pixel's segment id, or VOID; COCO's segments_info.
    """
    visible = np.where(owners == 0, patterns, 0)
    seen = [(owners == i, o["category_id"], o["iscrowd"]) for i, o in enumerate(objects, 1)]
    seen += [(visible == i, FIRST_STUFF - 1 + i, 0) for i in range(1, len(PATTERNS) + 1)]
    seen = [segment for segment in seen if segment[0].any()]
    numbers = MIN_ID + rng.choice(MAX_ID - MIN_ID + 1, len(seen), replace=False)
    ids = np.full(owners.shape, VOID)
    segments = []
    for number, (where, category, iscrowd) in zip(numbers.tolist(), seen, strict=True):
        ids[where] = number
        segment = {"id": number, "category_id": category, "iscrowd": iscrowd}
        segments.append({**segment, "area": int(where.sum()), "bbox": bounds(where)})
    return ids, segments


class PanopticSplit:
    """A writer of the PNGs and panoptic_*.json of one split."""

    def __init__(self, out: Path, split: str):
        self.folder = out / f"panoptic_{split}2017"
        self.file = out / "annotations" / f"panoptic_{split}2017.json"
        self.annotations: list[dict] = []
        self.folder.mkdir(parents=True)

    def add(
        self,
        image_id: int,
        objects: list[dict],
        owners: np.ndarray,
        patterns: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Add an image; see `panoptic_segments` for the arguments."""
        ids, segments = panoptic_segments(objects, owners, patterns, rng)
        name = f"{image_id:012}.png"
        Image.fromarray(id2rgb(ids)).save(self.folder / name)
        entry = {"image_id": image_id, "file_name": name, "segments_info": segments}
        self.annotations.append(entry)

    def write(self, images: list[dict], things: tuple[str, ...]) -> None:
        """Write the JSON file; `images` are COCO's entries, `things` names of shapes."""
        content = {
            "info": {"description": "coloured shapes on patterned grounds"},
            "images": images,
            "annotations": self.annotations,
            "categories": categories(things),
        }
        self.file.write_text(json.dumps(content))
