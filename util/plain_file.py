"""Files that are read whole: no pipes, no devices, nothing without an end."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from util.errors import UserError

MOST_TEXT = 1 << 28  # bytes


def open_plain(path: Path, flags: int = os.O_RDONLY) -> BinaryIO:
    """Open a file for bytes, as `os.open` does with `flags`, not waiting for a pipe's other end.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is something else than a file, or cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be opened ({reason})") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path}: is no regular file")
    return os.fdopen(descriptor, "rb" if flags == os.O_RDONLY else "r+b")


def read_bytes(path: Path, most: int = MOST_TEXT) -> bytes:
    """The content of a file.

    Args:
        most: bytes that it may have.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is something else than a file, too large, or cannot be read.
    """
    with open_plain(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise UserError(
                f"{path}: is larger than the {most >> 20} MiB that such a file may have"
            )
        try:
            return file.read(most)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_text(path: Path, most: int = MOST_TEXT, errors: str = "strict") -> str:
    """The content of a text in UTF-8, with or without a byte-order mark, as `read_bytes`."""
    return read_bytes(path, most).decode("utf-8-sig", errors)
