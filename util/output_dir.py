"""The folder a run writes to."""

import os
from pathlib import Path

from util.errors import UserError

RUN_FILES = ("checkpoint*.pth", "log.txt", "eval")


def prepare_output_dir(path: Path) -> None:
    """Make the folder, and see that it can be written to.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {path}: cannot be made ({error.strerror})") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"--output_dir {path}: cannot be written to")


def set_aside_earlier_run(path: Path) -> Path | None:
    """Move what another run left in the folder to earlier_run_1, _2, ...; None if there is nothing.

    A new run in the same folder would write over its checkpoints.
    """
    files = [file for pattern in RUN_FILES for file in sorted(path.glob(pattern))]
    if not files:
        return None
    number = 1
    while (path / f"earlier_run_{number}").exists():
        number += 1
    aside = path / f"earlier_run_{number}"
    aside.mkdir()
    for file in files:
        file.rename(aside / file.name)
    return aside
