"""What annotation files have in common: JSON with lists of images, annotations and categories."""

import contextlib
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datasets.validation.faults import cause, shown
from util.errors import UserError

from .byte_table import ByteTable


@contextlib.contextmanager
def content_of(path: Path, kind: str, required: dict[str, tuple[str, ...]]) -> Iterator[dict]:
    """The content of an annotation file, for the block in which it is packed into arrays.

    Args:
        kind: of file, as messages call it.
        required: the lists that it has to have, and the keys of their entries. Where "id" is one
            of the keys, ids are whole numbers; where "name" is, names are texts; and so are names
            of images' files.

    Raises:
        UserError: no such file, no JSON, not of this layout, or with numbers too large for arrays.
    """
    with _collector_paused():
        content = _read_json(path)
        _check_layout(path, content, kind, required)
        try:
            yield content
        except OverflowError as error:
            raise UserError(f"{path}: an id or a number in it is too large ({error})") from error
        except RecursionError as error:
            raise UserError(f"{path}: its lists are nested too deep ({error})") from error


def missing_key(entry: object, keys: tuple[str, ...]) -> str | None:
    """The first key that an entry of a list lacks."""
    if not isinstance(entry, dict):
        return keys[0]
    return next((key for key in keys if key not in entry), None)


def listed_images(content: dict) -> list[dict]:
    """The file's images by ascending id, one of each."""
    images = {image["id"]: image for image in content["images"]}
    return [images[image_id] for image_id in sorted(images)]


def image_columns(images: list[dict]) -> dict[str, Any]:
    """The attributes of `annotation_store.AnnotatedImages` that `listed_images` tell.

    Raises:
        OverflowError: an id is too large.
    """
    return {
        "image_ids": np.array([image["id"] for image in images], dtype=np.int64),
        "file_names": name_table(image["file_name"] for image in images),
        "heights": _sides(images, "height"),
        "widths": _sides(images, "width"),
    }


def name_table(names: Iterator[str]) -> ByteTable:
    """Names of files; some that JSON can hold are no Unicode."""
    return ByteTable(name.encode("utf-8", "surrogatepass") for name in names)


def by_image(owners: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Annotations sorted by image.

    Args:
        owners: (N,) int64, the place of the image that an annotation is of; -1 for none.
        count: of images.

    Returns:
        numbers (n,) int64 of the annotations that are of an image, in the file's order within it;
        starts (count + 1,) int64, where those of an image begin.
    """
    order = np.argsort(owners, kind="stable")[np.count_nonzero(owners < 0) :]
    return order, np.searchsorted(owners[order], np.arange(count + 1))


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
        with path.open(encoding="utf-8-sig") as file:  # some editors begin files with a mark
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such annotation file") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: not a readable JSON file ({cause(error)})") from error


def _check_layout(
    path: Path, content: object, kind: str, required: dict[str, tuple[str, ...]]
) -> None:
    """Raise a UserError unless every entry has what it is known by."""
    for name, keys in required.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise UserError(f"{path}: not a {kind}, it has no list {name!r}")
        for i, entry in enumerate(entries):
            missing = missing_key(entry, keys)
            if missing is not None:
                raise UserError(f"{path}: not a {kind}, {name}[{i}] lacks {missing!r}")
            if "id" in keys and type(entry["id"]) is not int:
                raise UserError(
                    f"{path}: {name}[{i}] has id {shown(entry['id'])}, not a whole number"
                )
            if "name" in keys and not _is_text(entry["name"]):
                raise UserError(
                    f"{path}: {name}[{i}] has name {shown(entry['name'])}, not a text of Unicode"
                )
    for image in content["images"]:
        if not isinstance(image["file_name"], str):
            raise UserError(
                f"{path}: image {image['id']} has file_name {shown(image['file_name'])}, not a text"
            )


def _is_text(value: object) -> bool:
    """Whether it is a text that can be written: JSON can hold halves of surrogate pairs."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sides(images: list[dict], name: str) -> np.ndarray:
    """Heights or widths; 0 where there is none."""
    sides = (image.get(name) for image in images)
    return np.array([side if type(side) is int else 0 for side in sides], dtype=np.int64)
