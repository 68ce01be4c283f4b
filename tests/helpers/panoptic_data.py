"""Small panoptic data sets in which every pixel is known."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.coco_panoptic import CocoPanoptic
from datasets.masks import id2rgb
from datasets.transforms import make_coco_transforms

CATEGORIES = [
    {"id": 1, "name": "cup", "isthing": 1},
    {"id": 3, "name": "dog", "isthing": True},
    {"id": 60, "name": "sky", "isthing": 0},
    {"id": 77, "name": "sea", "isthing": False},
]


@dataclass
class Picture:
    """An image of a split: its segment map and its entries in the annotation file.

    Attributes:
        ids: (H, W) ids of segments.
        segments: segments_info.
        image, annotation: changes to the entries; a value of None removes a key.
    """

    ids: np.ndarray
    segments: list[dict]
    image: dict = field(default_factory=dict)
    annotation: dict = field(default_factory=dict)


def known_picture() -> Picture:
    """Return an image 30 high, 40 wide: a thing, stuff, a crowd, an empty segment, void."""
    ids = np.zeros((30, 40), dtype=np.int64)
    ids[20:, :] = 256 * 3 + 1  # sea
    ids[0:2, 5:40] = 70_000  # sky, in the shape of an L
    ids[0:10, 38:40] = 70_000
    ids[15:25, 10:30] = 256**3 - 1  # dog, partly over the sea
    ids[12:14, 0:6] = 5  # crowd of cups
    return Picture(ids, [
        {"id": 256**3 - 1, "category_id": 3, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]},
        {"id": 5, "category_id": 1, "iscrowd": 1},
        {"id": 70_000, "category_id": 60, "iscrowd": 0},
        {"id": 9, "category_id": 1},  # no pixel has it
        {"id": 256 * 3 + 1, "category_id": 77},
    ])  # fmt: skip


def random_picture(number: int) -> Picture:
    """Return overlapping rectangles: most segments are in several parts, some have no pixel."""
    rng = np.random.default_rng(number)
    height, width = rng.integers(20, 60, 2)
    ids = np.zeros((height, width), dtype=np.int64)
    segments = []
    for segment_id in rng.choice(256**3 - 1, 12, replace=False) + 1:
        top, left = rng.integers(0, height - 4), rng.integers(0, width - 4)
        ids[top : top + rng.integers(1, 25), left : left + rng.integers(1, 25)] = segment_id
        category = CATEGORIES[rng.integers(len(CATEGORIES))]
        segments.append({"id": int(segment_id), "category_id": category["id"],
                         "iscrowd": int(rng.uniform() < 0.2)})  # fmt: skip
    return Picture(ids, segments)


def entry(values: dict, changes: dict) -> dict:
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


def write_split(root: Path, pictures: list[Picture], split: str = "train") -> Path:
    """Write images 1, 2, ... to root/coco, their maps to root/panoptic; files are <id>.png."""
    folders = root / "coco" / f"{split}2017", root / "panoptic" / f"panoptic_{split}2017"
    for folder in (*folders, root / "panoptic" / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, picture in enumerate(pictures, start=1):
        height, width = picture.ids.shape
        name = f"{number}.png"
        colours = id2rgb(picture.ids)
        for folder in folders:  # the images show the segments
            Image.fromarray(colours).save(folder / name)
        image = {"id": number, "file_name": name, "height": height, "width": width}
        images.append(entry(image, picture.image))
        annotation = {"image_id": number, "file_name": name, "segments_info": picture.segments}
        annotations.append(entry(annotation, picture.annotation))
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    annotation_file(root, split).write_text(json.dumps(content))
    return root


def annotation_file(root: Path, split: str = "train") -> Path:
    return root / "panoptic" / "annotations" / f"panoptic_{split}2017.json"


def options(root: Path) -> list:
    """Return the options of main.py for the data in `root`."""
    return ["--dataset_file", "coco_panoptic", "--coco_path", root / "coco",
            "--coco_panoptic_path", root / "panoptic"]  # fmt: skip


def dataset_of(root, augment="none", size=32, **changes) -> CocoPanoptic:
    return CocoPanoptic(
        root / "coco" / "train2017", root / "panoptic" / "panoptic_train2017",
        annotation_file(root), make_coco_transforms(augment, size),
        return_masks=changes.pop("return_masks", True), **changes,
    )  # fmt: skip
