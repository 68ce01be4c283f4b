"""Files that appear under their names only when they are complete and on disk."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from util.errors import UserError


def check_absent(path: Path, force: bool, instead: str | None = None) -> None:
    """Raise a UserError if a tool would write over `path` without --force.

    Args:
        instead: the option that names another place, if one does.
    """
    if path.exists() and not force:
        choice = f"choose another {instead} or " if instead else ""
        raise UserError(f"{path}: exists; {choice}add --force")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever keeps the system from writing `path` in here is a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); what was there before is left "
            "as it is"
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the context ends.

    A stop or an error in the middle, or a full disk, leaves the file that was there before. Where
    `path` is a link it stays one, and the file that it leads to is replaced.

    Raises:
        UserError: it cannot be written.
    """
    with writing(path):
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f".{target.name}.part")
        try:
            with _new_file(temporary) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
            _sync_folder(target.parent)
        except Exception:
            with contextlib.suppress(OSError):  # a folder that cannot be written to has none
                temporary.unlink(missing_ok=True)
            raise


def _new_file(path: Path) -> BinaryIO:
    """Open a file that is not there yet: what a kill left is removed, and no link is followed."""
    path.unlink(missing_ok=True)
    return path.open("xb")


@contextlib.contextmanager
def replacing_in(folder: Path) -> Iterator[Path]:
    """A folder for files that others write by path; when the context ends they move to `folder`.

    An error before that leaves `folder` as it was.
    """
    with writing(folder), tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as part:
        yield Path(part)
        for file in Path(part).iterdir():
            with file.open("r+b") as written:
                os.fsync(written.fileno())
            file.replace(folder / file.name)
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Have the new name of a file on disk, too, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
