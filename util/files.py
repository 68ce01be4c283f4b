"""Reading of regular files only, and writes that are complete or leave what was there.

What tools do with files that exist is said in docs/training.md, and done here.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from util.errors import UserError

MAX_TEXT_BYTES = 1 << 28


def open_regular(path: Path, flags: int = os.O_RDONLY) -> BinaryIO:
    """Open a regular file for bytes; `flags` are those of `os.open`.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It is a pipe, a device or a folder, or it cannot be opened.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe waits until somebody opens its other end.
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be opened ({reason})") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path}: is not a regular file")
    return os.fdopen(descriptor, "rb" if flags == os.O_RDONLY else "r+b")


def read_text(path: Path, errors: str = "strict") -> str:
    """Read a text in UTF-8, with or without a byte-order mark.

    Args:
        errors: What to do with bytes that are not UTF-8, as in `bytes.decode`.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It is not a regular file, is larger than MAX_TEXT_BYTES, or cannot be read.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_TEXT_BYTES:
            raise UserError(
                f"{path}: is larger than the {MAX_TEXT_BYTES >> 20} MiB that such a file may have"
            )
        try:
            content = file.read(MAX_TEXT_BYTES)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return content.decode("utf-8-sig", errors)


def check_no_overwrite(path: Path, force: bool, option: str | None = None) -> None:
    """Raise a UserError if `path` exists and a tool was called without --force.

    Args:
        option: The option that chooses another path, if there is one.
    """
    if path.exists() and not force:
        choice = f"choose another {option} or " if option else ""
        raise UserError(f"{path}: exists; {choice}add --force")


def check_output_file(path: Path, force: bool, option: str) -> None:
    """Raise a UserError if a tool cannot write the file that `option` names."""
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{option} {path}: not a file in a folder that exists")
    check_no_overwrite(path, force, option)


def check_new_folder(path: Path) -> None:
    """Raise a UserError if `path`, a folder to make, exists and is not an empty folder."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path}: exists and is not empty; choose another folder or remove it")


@contextlib.contextmanager
def report_write_errors(path: Path) -> Iterator[None]:
    """Turn any OSError in this context into a UserError that says that `path` was not written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); what was there before is left "
            "as it is"
        ) from error


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to, which replaces `path` when the context ends.

    The new content is on disk before it gets the name. A stop, an error or a full disk in the
    middle leaves the file that was there before. A link stays a link: its target is replaced.

    Raises:
        UserError: The file cannot be written.
    """
    with report_write_errors(path):
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f".{target.name}.part")
        try:
            # A killed process may have left one. Removed and created anew ("x"), because opening
            # it would follow a link that somebody put there.
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
            _sync_folder(target.parent)
        except Exception:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def check_exists(*paths: Path | None) -> None:
    """Raise a UserError for the first path at which nothing is; None passes."""
    for path in paths:
        if path is not None and not path.exists():
            raise UserError(f"{path}: no such file or folder")


@contextlib.contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder whose files move to `folder` when the context ends.

    For libraries that write files by path. An error before the end leaves `folder` as it was.

    Raises:
        UserError: The files cannot be written.
    """
    with report_write_errors(folder), tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as t:
        yield Path(t)
        for file in Path(t).iterdir():
            with file.open("r+b") as written:
                os.fsync(written.fileno())
            file.replace(folder / file.name)
        _sync_folder(folder)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to make and fill; it gets the name `folder` when the context ends.

    Raises:
        UserError: `folder` exists and is not empty, or cannot be written.
    """
    check_new_folder(folder)
    part = folder.absolute().with_name(f".{folder.absolute().name}.part")
    with report_write_errors(folder):
        shutil.rmtree(part, ignore_errors=True)  # a killed process may have left one
        yield part
        part.replace(folder)


def _sync_folder(folder: Path) -> None:
    """Write the folder's list of names to disk, so that a new name survives a power failure."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
