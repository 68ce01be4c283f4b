"""Files that are read whole: no pipes, no devices, nothing without an end."""

import os
import stat
from pathlib import Path

from util.errors import UserError

MOST_TEXT = 1 << 28  # bytes


def read_bytes(path: Path, most: int = MOST_TEXT) -> bytes:
    """The content of a file.

    Args:
        most: bytes that it may have.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is something else than a file, too large, or cannot be read.
    """
    try:
        # A pipe that nobody writes to is opened at once, too.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})") from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path}: is no regular file")
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > most:
        raise UserError(f"{path}: is larger than the {most >> 20} MiB that such a file may have")
    return content


def read_text(path: Path, most: int = MOST_TEXT, errors: str = "strict") -> str:
    """The content of a text in UTF-8, with or without a byte-order mark, as `read_bytes`."""
    return read_bytes(path, most).decode("utf-8-sig", errors)
