"""Checkpoints, written atomically and read without running code."""

import argparse
import codecs
import errno
import os
import pathlib
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from util.download import fetch
from util.errors import UnreadableError, UserError, resource_error
from util.files import atomic_write

# Types in published checkpoints besides tensors and plain Python values. Paths may be from another
# platform or Python version, so they are read as pure paths, under any of their names.
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

END_RECORD_BYTES = 22  # of a zip archive without a comment

CONVERT_HINT = "tools/convert.py makes one of a Hugging Face DETR's folder"


# For the whole process, because torch.serialization.safe_globals is not thread-safe.
torch.serialization.add_safe_globals(SAFE_TYPES)


def save_checkpoint(content: Any, path: Path) -> None:
    """Write `content` with torch.save and `util.files.atomic_write`.

    Raises:
        UserError: The file cannot be written.
    """
    with atomic_write(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if not isinstance(error.__context__, OSError):
                raise
            # PyTorch wraps the system's error in a RuntimeError of its own.
            raise error.__context__ from error


def load_checkpoint(path_or_url: str, trust: bool = False) -> Any:
    """Read a checkpoint from a file or an https address, with its tensors on the CPU.

    Reads PyTorch's zip and legacy formats with tensors, plain Python values, argparse.Namespace and
    paths; other types are refused, so that a file cannot run code. Damaged bytes of a zip file, the
    format that `save_checkpoint` writes, are noticed by checksums. Legacy files have none: damage
    is only noticed if it makes the structure invalid.

    Args:
        trust: Read any type; the file can run code then.

    Raises:
        UnreadableError: The system does not let it be read, or memory does not suffice.
        UserError: There is no such file, it is damaged, or it holds a type that is not allowed.
    """
    path = fetch(path_or_url) if "://" in path_or_url else Path(path_or_url)
    if path.is_dir():
        raise UserError(f"{path}: a folder, not a checkpoint; {CONVERT_HINT}")
    if not path.is_file():
        reason = "is not a regular file" if path.exists() else "no such checkpoint file"
        raise UserError(f"{path}: {reason}")
    has_checksums = False
    try:
        _check_kind(path)
        has_checksums = _check_archive(path)
        if trust:
            return torch.load(path, map_location="cpu", weights_only=False)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise UserError(
                f"{path}: not a checkpoint to trust: it holds {refused[1]}, which could run code; "
                "--trust_checkpoint, in Python trust=True, reads it all the same"
            ) from error
        reason = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        raise _damaged(path, reason) from error
    except Exception as error:  # a damaged file can make the reader fail in any way
        reason = resource_error(error) if has_checksums else None
        # Places beyond the end of a damaged file are EINVAL.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            reason = reason or UserError(error.strerror)
        if reason is not None:
            raise UnreadableError(f"{path}: cannot be read now: {reason}") from error
        raise _damaged(path, str(error) or "it ends too early") from error


def _damaged(path: Path, reason: str) -> UserError:
    reason = _first_line(reason).partition(". ")[0].rstrip(".")  # the first sentence is enough
    return UserError(f"{path}: not a whole checkpoint, copy it again ({reason})")


def _check_kind(path: Path) -> None:
    """Raise a UserError for safetensors and text files."""
    with path.open("rb") as file:
        start = file.read(512)
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and header <= path.stat().st_size:
        raise UserError(f"{path}: a safetensors file, not a checkpoint; {CONVERT_HINT}")
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # its end may be cut
    except UnicodeDecodeError:
        return
    if text and all(char.isprintable() or char.isspace() for char in text):
        raise UserError(f"{path}: a text, not a checkpoint; it begins with {text[:40].strip()!r}")


def _check_archive(path: Path) -> bool:
    """Check a file in PyTorch's zip format; PyTorch compares no checksums and limits no sizes.

    Returns:
        False for a file in the legacy format, which has no checksums.

    Raises:
        ValueError: It is damaged.
        UserError: It is a TorchScript program.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # PyTorch's own test of the format
            return False
        file.seek(-min(END_RECORD_BYTES, path.stat().st_size), os.SEEK_END)
        if file.read(4) != b"PK\x05\x06":
            # PyTorch's reader would search for it further back than zipfile does.
            raise ValueError("its end is missing, or bytes follow it")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(Path(member.filename).name == "constants.pkl" for member in members):
            raise UserError(
                f"{path}: a TorchScript program, not a checkpoint; give the file it was made from"
            )
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is compressed, which PyTorch's are not")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its parts are said to be larger than the file")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
    return True


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "no reason given")
