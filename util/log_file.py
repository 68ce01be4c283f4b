"""log.txt: one JSON object a line, one line an epoch."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from util.errors import UserError
from util.whole_file import replacing

LOG = "log.txt"


class LogFile:
    """Reads and writes log.txt so that each epoch is in it once, whenever the run was stopped."""

    def __init__(self, path: Path):
        self.path = path

    def read(self, last_epoch: int) -> tuple[list[dict], bool]:
        """The rows of epochs up to `last_epoch`, and whether there is anything else.

        A last line without its end is what a stop in the middle of writing leaves: it is nothing.
        """
        if not self.path.is_file():
            return [], False
        rows, extra = {}, False
        content = self.path.read_text(encoding="utf-8", errors="replace")
        for line in content.splitlines(keepends=True):
            if not line.endswith("\n"):
                continue
            row = _row(line)
            if row is None or row["epoch"] > last_epoch or row["epoch"] in rows:
                extra = True
            else:
                rows[row["epoch"]] = row
        return list(rows.values()), extra

    def write(self, rows: list[dict]) -> None:
        """Let the file have these rows, unless it has them already."""
        content = "".join(_line(row) for row in rows)
        if self.path.is_file() and self.path.read_text(errors="replace") == content:
            return
        if not rows and not self.path.is_file():
            return
        with self._errors(), replacing(self.path) as file:
            file.write(content.encode())

    def append(self, row: dict) -> None:
        """Add a row, on disk when this returns."""
        with self._errors(), self.path.open("ab") as file:
            file.write(_line(row).encode())
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.path}: cannot write the log ({error.strerror})") from error


def read_log(path: Path) -> tuple[list[dict], bool]:
    """The rows of a log by epoch; of an epoch that is there twice, the later one.

    A run that is still writing may be read, and a log of the published code.

    Returns:
        The rows, and whether there is a last line that is not whole, which is not among them.

    Raises:
        UserError: the file cannot be read, or is no log.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    rows = {}
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is not None:
            rows[row["epoch"]] = row
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
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("epoch")) is not int:
        return None
    return row if abs(row["epoch"]) < 1e9 else None
