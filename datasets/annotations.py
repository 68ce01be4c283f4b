"""COCO annotation files: read, checked, and handed to pycocotools."""

import contextlib
import io
import json
from pathlib import Path

from pycocotools.coco import COCO

from util.errors import UserError

REQUIRED_KEYS = {
    "images": ("id", "file_name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def load_annotations(path: str | Path) -> COCO:
    """Read an instances_*.json file.

    Raises:
        UserError: no such file, no JSON, or not COCO's lists of images, annotations, categories.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such annotation file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error})") from error
    _check_layout(path, content)
    content.setdefault("info", {})  # pycocotools wants it, many files do not have it
    for annotation in content["annotations"]:
        _complete(path, annotation)
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # it announces each of its steps
        coco.createIndex()
    return coco


def _check_layout(path: Path, content: object) -> None:
    for name, keys in REQUIRED_KEYS.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise UserError(f"{path}: not a COCO annotation file, it has no list {name!r}")
        for i, entry in enumerate(entries):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise UserError(
                    f"{path}: not a COCO annotation file, {name}[{i}] lacks {missing[0]!r}"
                )
            if type(entry["id"]) is not int:
                raise UserError(f"{path}: {name}[{i}] has id {entry['id']!r}, not a whole number")


def _complete(path: Path, annotation: dict) -> None:
    """Check the box, and add what scoring needs and files made by hand often lack."""
    box = annotation["bbox"]
    if not isinstance(box, list) or [type(v) in (int, float) for v in box] != [True] * 4:
        raise UserError(f"{path}: annotation {annotation['id']} has bbox {box}, not 4 numbers")
    annotation.setdefault("area", box[2] * box[3])
    annotation.setdefault("iscrowd", 0)


def check_categories(coco: COCO, path: str | Path, num_classes: int) -> None:
    """Raise a UserError unless the model has a class for every annotation."""
    for annotation in coco.dataset["annotations"]:
        category = annotation["category_id"]
        if not isinstance(category, int) or not 0 <= category < num_classes:
            hint = ""
            if isinstance(category, int) and category >= num_classes:
                hint = f"; give --num_classes {max(coco.cats, default=category) + 1} or more"
            raise UserError(
                f"{path}: annotation {annotation['id']} has category_id {category}, the model has "
                f"classes 0 to {num_classes - 1}{hint}"
            )
