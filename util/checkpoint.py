"""Checkpoints: written whole or not at all, read without running code."""

import argparse
import os
import pathlib
import pickle
import re
import urllib.error
from pathlib import Path
from typing import Any

import torch

from util.dist import barrier, is_main_process
from util.errors import UserError

# What published checkpoints hold besides tensors and plain Python values. Paths may come from
# another platform or Python version, so they are read as pure paths, under any of their names.
SAFE_TYPES = [
    argparse.Namespace,
    *(
        (kind, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name, kind in (
            ("PosixPath", pathlib.PurePosixPath),
            ("PurePosixPath", pathlib.PurePosixPath),
            ("WindowsPath", pathlib.PureWindowsPath),
            ("PureWindowsPath", pathlib.PureWindowsPath),
        )
    ),
]

# As in torch.hub: the end of a file's name is the beginning of its SHA-256.
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")


def save_checkpoint(content: Any, path: Path) -> None:
    """Write `content` with torch.save.

    The file appears under its name only when it is complete and on disk: a stop or a full disk
    in the middle leaves the file that was there before.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path}: cannot write the checkpoint ({_first_line(str(error))})"
        ) from error


def load_checkpoint(path_or_url: str) -> Any:
    """Read a checkpoint from a file or an https address, tensors on the CPU.

    Reads zip and legacy files, tensors, plain Python values, argparse.Namespace and paths;
    anything else is refused, so that a file cannot run code.

    Raises:
        UserError: no such file, not a whole checkpoint, or a type that is not allowed.
    """
    path = _download(path_or_url) if "://" in path_or_url else Path(path_or_url)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        with torch.serialization.safe_globals(SAFE_TYPES):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise UserError(
                f"{path}: not a checkpoint to trust: it holds {refused[1]}, which could run code"
            ) from error
        reason = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        raise _damaged(path, reason) from error
    except Exception as error:  # a damaged file can make the reader fail in any way
        raise _damaged(path, str(error) or "it ends too early") from error


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: not a whole checkpoint, copy it again ({_first_line(reason)})")


def _download(url: str) -> Path:
    """Fetch `url` into PyTorch's cache, by the main process; keep what is there already."""
    if not url.startswith("https://"):
        raise UserError(f"{url}: checkpoints are downloaded over https only")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rsplit("/", 1)[-1]
    if is_main_process() and not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        expected = HASH_IN_NAME.search(path.name)
        try:
            torch.hub.download_url_to_file(url, str(path), expected and expected[1])
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise UserError(f"{url}: cannot be downloaded ({_first_line(str(error))})") from error
    barrier()
    return path


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "no reason given")
