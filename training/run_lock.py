"""One run at a time in a folder."""

import contextlib
import os
import socket
from pathlib import Path
from typing import BinaryIO

from util.errors import UserError
from util.files import open_regular

LOCK = ".lock"


def lock_folder(folder: Path) -> BinaryIO | None:
    """Lock a folder for as long as the file that is returned stays open and this process lives.

    The system lets go of the lock when the process ends in any way. Loader workers do not inherit
    it, as a lock of `flock` would be, so that a killed run can be resumed at once. None where the
    file system has no locks: the run then goes on without.

    Raises:
        UserError: another process has it, or the file cannot be made.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    path = folder / LOCK
    file = open_regular(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        holder = file.read(200).decode("ascii", "replace").strip()
        file.close()
        raise UserError(
            f"--output_dir {folder}: {holder or 'another process'} is training into it; choose "
            "another folder, or wait until it has ended"
        ) from error
    except OSError:
        file.close()
        return None
    with contextlib.suppress(OSError):  # a full disk: the name is only for messages
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        file.flush()
    return file
