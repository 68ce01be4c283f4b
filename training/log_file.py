"""log.txt: one JSON object a line, one line an epoch."""

import json
import os
from pathlib import Path

from training.log_rows import EPOCH, fitting
from util.errors import UserError
from util.files import atomic_write, open_regular, read_text, report_write_errors
from util.schema import fields

LOG = "log.txt"


class LogFile:
    """Reads and writes log.txt so that each epoch is in it once, whenever the run was stopped."""

    def __init__(self, path: Path):
        self.path = path

    def read(self, last_epoch: int) -> tuple[list[dict], bool]:
        """The rows of epochs up to `last_epoch`, and whether there is anything else.

        A last line without its end is what a stop in the middle of writing leaves: it is nothing.
        """
        rows, extra = {}, False
        for line in self._content().splitlines(keepends=True):
            if not line.endswith("\n"):
                continue
            whole = _row(line)
            if whole is None or whole["epoch"] > last_epoch or whole["epoch"] in rows:
                extra = True
                continue
            row = fitting(whole)
            rows[row["epoch"]] = row
            extra |= len(row) < len(whole)
        return list(rows.values()), extra

    def write(self, rows: list[dict]) -> None:
        """Let the file have these rows, unless it has them already."""
        content = "".join(_line(row) for row in rows)
        if self._content() != content:
            with atomic_write(self.path) as file:
                file.write(content.encode())

    def append(self, row: dict) -> None:
        """Add a row, on disk when this returns."""
        with (
            report_write_errors(self.path),
            open_regular(self.path, os.O_RDWR | os.O_CREAT) as file,
        ):
            file.seek(0, os.SEEK_END)
            file.write(_line(row).encode())
            file.flush()
            os.fsync(file.fileno())

    def _content(self) -> str:
        try:
            return read_text(self.path, errors="replace")
        except FileNotFoundError:
            return ""


def read_log(path: Path) -> tuple[list[dict], bool]:
    """The rows of a log by epoch; of an epoch that is there twice, the later one.

    A run that is still writing may be read, and a log of the published code. What is no number
    where one belongs is left out.

    Returns:
        The rows, and whether there is a last line that is not whole, which is not among them.

    Raises:
        UserError: the file cannot be read, or is no log.
    """
    try:
        lines = read_text(path, errors="replace").splitlines(keepends=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    rows = {}
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is not None:
            rows[row["epoch"]] = fitting(row)
        elif number == len(lines) and line.startswith("{") and not line.endswith("\n"):
            return _by_epoch(rows), True
        elif line.strip():
            raise UserError(
                f"{path}: not a log of a run, line {number} is no JSON object with an epoch"
            )
    return _by_epoch(rows), False


def _by_epoch(rows: dict[int, dict]) -> list[dict]:
    return [rows[epoch] for epoch in sorted(rows)]


def _line(row: dict) -> str:
    return json.dumps(row) + "\n"


def _row(line: str) -> dict | None:
    """The row of a line; None if it is something else."""
    try:
        row = json.loads(line)
        fields({"epoch": EPOCH})(row, "")
    except (ValueError, RecursionError):  # an InvalidValue is a ValueError
        return None
    return row
