"""COCO annotation files: read, checked, and packed into arrays."""

import contextlib
import gc
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from util.errors import UserError

from .annotation_checks import annotation_columns, file_faults
from .annotation_store import Annotations
from .byte_table import ByteTable
from .faults import Fault, cause, shown

REQUIRED_KEYS = {
    "images": ("id", "file_name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def load_annotations(
    path: str | Path, num_classes: int | None = None, segmentations: bool = False
) -> Annotations:
    """Read an instances_*.json file.

    Args:
        num_classes: category ids must be below it; None allows any.
        segmentations: keep the outlines, too.

    Raises:
        UserError: as `read_annotations`, and for the first fault that is an error.
    """
    annotations, faults = read_annotations(path, num_classes, segmentations)
    if faults:
        raise UserError(str(faults[0]))
    return annotations


def read_annotations(
    path: str | Path,
    num_classes: int | None = None,
    segmentations: bool = False,
    notes: bool = False,
) -> tuple[Annotations, list[Fault]]:
    """As `load_annotations`, but gives all faults that it finds: the file's, then annotations'.

    Values that cannot be used are NaN or -1 in the annotations.

    Args:
        notes: whether to include them.

    Raises:
        UserError: no such file, no JSON, or not COCO's lists of images, annotations, categories.
    """
    path = Path(path)
    with _collector_paused():
        content = _read_json(path)
        _check_layout(path, content)
        try:
            return _packed(path, content, num_classes, segmentations, notes)
        except OverflowError as error:
            raise UserError(f"{path}: an id or a number in it is too large ({error})") from error
        except RecursionError as error:
            raise UserError(f"{path}: its lists are nested too deep ({error})") from error


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Millions of new objects, none of them garbage: looking for some takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_json(path: Path) -> object:
    try:
        # A pipe would be waited for without end.
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a regular file")
        with path.open(encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such annotation file") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: not a readable JSON file ({cause(error)})") from error


def _packed(
    path: Path, content: dict, num_classes: int | None, segmentations: bool, notes: bool
) -> tuple[Annotations, list[Fault]]:
    images = {image["id"]: image for image in content["images"]}
    image_ids = sorted(images)
    images = [images[image_id] for image_id in image_ids]
    place = {image_id: i for i, image_id in enumerate(image_ids)}
    annotations = content["annotations"]
    # -1: of an image that the file does not list.
    owners = np.array([place.get(a["image_id"], -1) for a in annotations], dtype=np.int64)
    heights, widths = _sides(images, "height"), _sides(images, "width")
    columns, unusable = annotation_columns(annotations)
    faults = file_faults(
        path, content, columns, unusable, owners, np.stack([widths, heights], 1), num_classes, notes
    )
    order = np.argsort(owners, kind="stable")[np.count_nonzero(owners < 0) :]
    outlines = (_segmentation(annotations[number]) for number in order.tolist())
    packed = Annotations(
        path=path,
        image_ids=np.array(image_ids, dtype=np.int64),
        file_names=ByteTable(i["file_name"].encode("utf-8", "surrogatepass") for i in images),
        heights=heights,
        widths=widths,
        starts=np.searchsorted(owners[order], np.arange(len(images) + 1)),
        ids=columns.ids[order],
        labels=columns.labels[order],
        boxes=columns.boxes[order],
        areas=columns.areas[order],
        crowds=columns.crowds[order],
        segmentations=ByteTable(outlines) if segmentations else None,
        categories=content["categories"],
    )
    return packed, faults


def _sides(images: list[dict], name: str) -> np.ndarray:
    """Heights or widths; 0 where there is none."""
    sides = (image.get(name) for image in images)
    return np.array([side if type(side) is int else 0 for side in sides], dtype=np.int64)


def _segmentation(annotation: dict) -> bytes:
    """As JSON; nothing for an empty list, too, which is how boxes alone are often written."""
    outline = annotation.get("segmentation")
    if outline is None or outline == []:
        return b""
    return json.dumps(outline, separators=(",", ":")).encode()


def _check_layout(path: Path, content: object) -> None:
    """Raise a UserError unless every entry has what it is known by."""
    for name, keys in REQUIRED_KEYS.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise UserError(f"{path}: not a COCO annotation file, it has no list {name!r}")
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict) or not all(key in entry for key in keys):
                missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
                raise UserError(
                    f"{path}: not a COCO annotation file, {name}[{i}] lacks {missing[0]!r}"
                )
            if type(entry["id"]) is not int:
                raise UserError(
                    f"{path}: {name}[{i}] has id {shown(entry['id'])}, not a whole number"
                )
    for image in content["images"]:
        if not isinstance(image["file_name"], str):
            raise UserError(
                f"{path}: image {image['id']} has file_name {shown(image['file_name'])}, not a text"
            )
    for annotation in content["annotations"]:
        # A float may be a whole number, too, and finds its image.
        if type(annotation["image_id"]) not in (int, float):
            raise UserError(
                f"{path}: annotation {annotation['id']} has image_id "
                f"{shown(annotation['image_id'])}, not a whole number"
            )
