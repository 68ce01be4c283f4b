"""A JSON file of results that grows from image to image."""

import json
import os
from pathlib import Path

from util.files import atomic_write, report_write_errors


class ResultsFile:
    """A JSON file with a list that grows, and that is valid JSON between calls of `add`.

    Args:
        path: of the file, which the first call of `add` creates or replaces.

    Attributes:
        count: number of entries.
    """

    def __init__(self, path: Path):
        self.path, self.count = path, 0
        self._end = 0  # position behind the last entry, where the closing bracket is

    def add(self, entries: list[dict]) -> None:
        """Append entries, if any; raise a UserError if they cannot be written."""
        if not self._end:
            with atomic_write(self.path) as file:
                file.write(b"[]")
            self._end = 1
        if not entries:
            return
        text = ",\n".join(map(json.dumps, entries))
        with report_write_errors(self.path):
            try:
                self._write(f"{',' * (self.count > 0)}\n{text}\n]".encode())
            except OSError:  # such as a full disk: restore what was there before
                os.truncate(self.path, self._end)
                self._write(b"\n]")
                raise
        self._end = self.path.stat().st_size - 2
        self.count += len(entries)

    def _write(self, text: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(self._end)
            file.write(text)
