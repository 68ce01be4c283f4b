"""What annotation files have in common: JSON with lists of images, annotations and categories."""

import contextlib
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datasets.validation.issues import error_text, short_repr
from util.errors import UserError

from .store import pack_names


@contextlib.contextmanager
def parsed_file(path: Path, kind: str, required: dict[str, tuple[str, ...]]) -> Iterator[dict]:
    """Give the content of an annotation file to the block that packs it into arrays.

    Args:
        kind: name of this kind of file in messages.
        required: the lists that the file must have, and the keys of their entries. Values of "id"
            must be integers, values of "name" and images' "file_name" strings.

    Raises:
        UserError: the file is missing, no JSON, of another layout, or has numbers too large for
            arrays.
    """
    with _gc_paused():
        content = _read_json(path)
        _check_layout(path, content, kind, required)
        try:
            yield content
        except OverflowError as error:
            raise UserError(f"{path}: an id or a number in it is too large ({error})") from error
        except RecursionError as error:
            raise UserError(f"{path}: its lists are nested too deep ({error})") from error


def missing_key(entry: object, keys: tuple[str, ...]) -> str | None:
    """Return the first key that an entry of a list lacks, or None."""
    if not isinstance(entry, dict):
        return keys[0]
    return next((key for key in keys if key not in entry), None)


def unique_images(content: dict) -> list[dict]:
    """Return the file's images by ascending id, the last one of each id."""
    images = {image["id"]: image for image in content["images"]}
    return [images[image_id] for image_id in sorted(images)]


def image_columns(images: list[dict]) -> dict[str, Any]:
    """Return the attributes of `store.AnnotatedImages` that the list of images holds.

    Raises:
        OverflowError: an id or a side is too large.
    """
    return {
        "image_ids": np.array([image["id"] for image in images], dtype=np.int64),
        "file_names": pack_names(image["file_name"] for image in images),
        "heights": _sides(images, "height"),
        "widths": _sides(images, "width"),
    }


@contextlib.contextmanager
def _gc_paused() -> Iterator[None]:
    """Pause garbage collection, which takes half of the time of reading millions of objects."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_json(path: Path) -> object:
    try:
        # Reading a pipe would wait for ever.
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a regular file")
        with path.open(encoding="utf-8-sig") as file:  # editors on Windows write a BOM
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such annotation file") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error_text(error)})") from error


def _check_layout(
    path: Path, content: object, kind: str, required: dict[str, tuple[str, ...]]
) -> None:
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
                    f"{path}: {name}[{i}] has id {short_repr(entry['id'])}, not a whole number"
                )
            if "name" in keys and not _is_unicode(entry["name"]):
                raise UserError(
                    f"{path}: {name}[{i}] has name {short_repr(entry['name'])}, not a text of "
                    "Unicode"
                )
    for image in content["images"]:
        if not isinstance(image["file_name"], str):
            raise UserError(
                f"{path}: image {image['id']} has file_name {short_repr(image['file_name'])}, "
                "not a text"
            )


def _is_unicode(value: object) -> bool:
    """Check for a string that can be encoded: JSON can hold halves of surrogate pairs."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _sides(images: list[dict], name: str) -> np.ndarray:
    """Return heights or widths, 0 where there is none."""
    sides = (image.get(name) for image in images)
    return np.array([side if type(side) is int else 0 for side in sides], dtype=np.int64)
