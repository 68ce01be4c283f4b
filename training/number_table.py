"""Tables of numbers as CSV files: one row an epoch."""

import contextlib
import csv
import io
from pathlib import Path

from training.log_rows import columns
from util.files import atomic_write


def write_table(path: Path, rows: list[dict[str, int | float]]) -> None:
    """Write all rows anew, at once; a number that a row lacks is an empty cell.

    Raises:
        UserError: it cannot be written.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, columns(rows), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    content = text.getvalue().encode("utf-8", "replace")
    with atomic_write(path) as file:
        file.write(content)


def read_table(path: Path) -> list[dict[str, int | float]]:
    """The rows of such a file that tell their epoch; cells that hold no number are left out.

    No rows if there is no such file.
    """
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        found = [_numbers(row) for row in csv.DictReader(lines)]
    except (OSError, csv.Error):
        return []
    return [row for row in found if isinstance(row.get("epoch"), int)]


def _numbers(row: dict) -> dict[str, float]:
    numbers = {}
    for name, text in row.items():
        with contextlib.suppress(AttributeError, ValueError):
            numbers[name] = int(text) if text.isdecimal() else float(text)
    return numbers
