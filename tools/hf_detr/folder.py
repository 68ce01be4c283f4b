"""Read and write folders as Hugging Face's save_pretrained does: JSON files and tensors."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from util.checkpoint import load_checkpoint
from util.errors import UserError
from util.plain_file import read_text
from util.whole_file import check_absent, replacing, writing

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
BIN_WEIGHTS = "pytorch_model.bin"  # in older folders
WRITTEN = (CONFIG, PREPROCESSOR, WEIGHTS)


def import_safetensors() -> Any:
    """Return safetensors.torch; raise a UserError if it is not installed."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError("safetensors is not installed: pip install safetensors") from error
    return safetensors.torch


def read_json(path: Path) -> Any:
    """Read a JSON file; raise a UserError if it is missing or damaged."""
    try:
        return json.loads(read_text(path))
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; a Hugging Face folder has {CONFIG} and {WEIGHTS}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({str(error)[:200]})") from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a folder by name, from one file or from several that an index lists.

    Raises:
        UserError: there is no such file, or one is missing or damaged.
    """
    for name in (WEIGHTS, BIN_WEIGHTS):
        if (folder / name).exists():
            return _read_file(folder / name)
        index = folder / f"{name}.index.json"
        if index.exists():
            tensors = {}
            for part in _parts(index):
                tensors.update(_read_file(folder / part))
            return tensors
    raise UserError(f"{folder}: has no {WEIGHTS}")


def _parts(index: Path) -> list[str]:
    """Return names of the files that an index lists; they must be in its own folder."""
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict):
        raise UserError(f"{index}: has no weight_map")
    parts = sorted(set(map(str, places.values())))
    for part in parts:
        if part != Path(part).name:
            raise UserError(f"{index}: {part[:80]!r} is not in its folder")
    return parts


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        content = load_checkpoint(str(path))
        if isinstance(content, dict) and all(isinstance(v, Tensor) for v in content.values()):
            return content
        raise UserError(f"{path}: must contain tensors by name and nothing else")
    safetensors = import_safetensors()
    if not path.is_file():
        what = "is no regular file" if path.exists() else "no such file"
        raise UserError(f"{path}: {what}")
    try:
        return safetensors.load_file(path)
    except Exception as error:  # safetensors raises errors of many types
        raise UserError(f"{path}: cannot be read, copy it again ({str(error)[:200]})") from error


def check_folder(folder: Path, force: bool, instead: str) -> None:
    """Raise a UserError if `write_folder` would overwrite something without --force.

    Args:
        instead: the option that names another folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; choose another {instead}")
    for name in WRITTEN:
        check_absent(folder / name, force, instead)


def write_folder(
    folder: Path, config: dict, preprocessor: dict, tensors: dict[str, Tensor]
) -> None:
    """Write what transformers' from_pretrained reads, each file by an atomic write."""
    safetensors = import_safetensors()
    files = {
        WEIGHTS: lambda: safetensors.save(tensors, {"format": "pt"}),
        PREPROCESSOR: lambda: _as_json(preprocessor),
        CONFIG: lambda: _as_json(config),
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with replacing(folder / name) as file:
            file.write(content())


def _as_json(content: dict) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
