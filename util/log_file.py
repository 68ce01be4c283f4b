"""log.txt: one JSON object a line, one line an epoch."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from util.errors import UserError
from util.whole_file import replacing


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


def _line(row: dict) -> str:
    return json.dumps(row) + "\n"


def _row(line: str) -> dict | None:
    """The row of a line; None if it is something else."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("epoch"), int) else None
