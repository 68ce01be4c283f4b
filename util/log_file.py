"""log.txt: one JSON object a line, one line an epoch."""

import json
import os
from pathlib import Path

from util.errors import UserError


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
            epoch = (row := _row(line)) and row["epoch"]
            if row is None or epoch > last_epoch or epoch in rows:
                extra = True
            else:
                rows[epoch] = row
        return list(rows.values()), extra

    def write(self, rows: list[dict]) -> None:
        """Let the file have these rows, unless it has them already."""
        content = "".join(_line(row) for row in rows)
        if self.path.is_file() and self.path.read_text(errors="replace") == content:
            return
        if not rows and not self.path.is_file():
            return
        temporary = self.path.with_name(f".{self.path.name}.part")
        self._write(temporary, "w", content)
        temporary.replace(self.path)

    def append(self, row: dict) -> None:
        """Add a row, on disk when this returns."""
        self._write(self.path, "a", _line(row))

    def _write(self, path: Path, mode: str, content: str) -> None:
        try:
            with path.open(mode, encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
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
