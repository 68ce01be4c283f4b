"""log.txt, one JSON object a line and epoch, and speed.csv, how fast each epoch was trained."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from util.errors import UserError
from util.files import atomic_write, open_regular, read_text, report_write_errors
from util.schema import (
    Check,
    InvalidValue,
    describe,
    dict_of,
    fields,
    integer,
    number,
    plain_value,
    text,
)

LOG = "log.txt"
# Apart from the log, whose every number is the same in a run that was stopped and one that was not.
SPEED_TABLE = "speed.csv"

# A log may come from anywhere, and its numbers are drawn and printed: what a row may hold.
MAX_EPOCHS = 10**6
MAX_ENTRIES = 10_000
MAX_NAME_LENGTH = 200
EPOCH = integer(0, MAX_EPOCHS)
NUMBER = number(finite=False)  # a mean over nothing is NaN


class LogFormat(NamedTuple):
    """What a task writes to log.txt besides numbers by name, which every run has.

    Attributes:
        checks: of its entries, by their names.
        lists: names of the numbers in entries that are lists, in their order.
        tag: TensorBoard's name of one of its numbers, called with a name from `flat`; None for a
            number that is not the task's own.
        is_score: whether -1, as the number of such a name, says that there was nothing to score.
    """

    checks: Mapping[str, Check] = {}
    lists: Mapping[str, Sequence[str]] = {}
    tag: Callable[[str], str | None] = lambda _: None
    is_score: Callable[[str], bool] = lambda _: False


PLAIN = LogFormat()


def check_row(row: Any, place: str, log_format: LogFormat = PLAIN) -> None:
    """Check that `row` is a row of log.txt: numbers of training and validation by name.

    Args:
        place: what the message calls the row.
        log_format: of the task.

    Raises:
        InvalidValue: an entry is of another type or too large.
    """
    dict_of(text(MAX_NAME_LENGTH), plain_value(3), MAX_ENTRIES)(row, place)
    fields({"epoch": EPOCH}, dict(log_format.checks))(row, place)
    for name, value in row.items():
        if name.startswith(("train_", "test_")) and isinstance(value, str | None):
            raise InvalidValue(f"{place}[{describe(name)}] is {describe(value)}, not a number")


def valid_entries(row: dict, log_format: LogFormat = PLAIN) -> dict:
    """Return the entries of a row that `check_row` accepts, in their order; "epoch" is valid."""
    kept = {}
    for name, value in islice(row.items(), MAX_ENTRIES):
        with contextlib.suppress(InvalidValue):
            check_row({"epoch": 0, name: value}, "", log_format)
            kept[name] = value
    return kept | {"epoch": row["epoch"]}


def flat(row: dict, log_format: LogFormat = PLAIN) -> dict[str, int | float]:
    """Return the numbers of a row under one name each.

    "test_PQ_all": {"pq": ...} becomes "test_PQ_all_pq", ..., and the numbers of a list get the
    names that the task has for them; other lists and dicts, such as the scores of each class, are
    left out.
    """
    numbers: dict[str, int | float] = {}
    for name, value in row.items():
        if isinstance(value, list) and len(value) == len(log_format.lists.get(name, ())):
            value = dict(zip(log_format.lists[name], value))
        if _is_number(value):
            numbers[name] = value
        elif isinstance(value, dict) and all(map(_is_number, value.values())):
            numbers |= {f"{name}_{key}": number for key, number in value.items()}
    return numbers


class LogFile:
    """Reads and writes log.txt so that it has each epoch once, whenever the run was stopped."""

    def __init__(self, path: Path, log_format: LogFormat = PLAIN):
        self.path = path
        self.log_format = log_format

    def read(self, last_epoch: int) -> tuple[list[dict], bool]:
        """Return the rows of epochs up to `last_epoch`, and whether the file has anything else.

        A last line without its end, which a stop in the middle of writing leaves, is ignored.
        """
        rows, extra = {}, False
        for line in self._content().splitlines(keepends=True):
            if not line.endswith("\n"):
                continue
            row = _parse(line)
            if row is None or row["epoch"] > last_epoch or row["epoch"] in rows:
                extra = True
                continue
            rows[row["epoch"]] = valid_entries(row, self.log_format)
            extra |= len(rows[row["epoch"]]) < len(row)
        return list(rows.values()), extra

    def write(self, rows: list[dict]) -> None:
        """Replace the rows of the file, unless it has exactly these already."""
        content = "".join(json.dumps(row) + "\n" for row in rows)
        if self._content() != content:
            with atomic_write(self.path) as file:
                file.write(content.encode())

    def append(self, row: dict) -> None:
        """Add a row; it is on disk when this returns."""
        with (
            report_write_errors(self.path),
            open_regular(self.path, os.O_RDWR | os.O_CREAT) as file,
        ):
            file.seek(0, os.SEEK_END)
            file.write(f"{json.dumps(row)}\n".encode())
            file.flush()
            os.fsync(file.fileno())

    def _content(self) -> str:
        try:
            return read_text(self.path, errors="replace")
        except FileNotFoundError:
            return ""


def read_log(path: Path, log_format: LogFormat = PLAIN) -> tuple[list[dict], bool]:
    """Read the rows of a log, in order of epochs; where one is there twice, the later row counts.

    The log may be of a run that is still writing, or of the published code. Entries that are not
    what a row may hold are left out.

    Returns:
        The rows, and whether the file ends in an incomplete line, which is not among them.

    Raises:
        UserError: the file cannot be read, or is not a log.
    """
    try:
        lines = read_text(path, errors="replace").splitlines(keepends=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    rows, incomplete = {}, False
    for position, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is not None:
            rows[row["epoch"]] = valid_entries(row, log_format)
        elif position == len(lines) and line.startswith("{") and not line.endswith("\n"):
            incomplete = True
        elif line.strip():
            raise UserError(
                f"{path}: not a log of a run, line {position} is not a JSON object with an epoch"
            )
    return [rows[epoch] for epoch in sorted(rows)], incomplete


def _parse(line: str) -> dict | None:
    """Return the row that a line holds; None if it holds something else."""
    try:
        row = json.loads(line)
        fields({"epoch": EPOCH})(row, "")
    except (ValueError, RecursionError):  # InvalidValue is a ValueError
        return None
    return row


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class SpeedTable:
    """The rows of speed.csv, by epoch.

    Args:
        path: of the file, which need not exist.
        last_epoch: rows of later epochs, which a part of the run wrote that was abandoned, are
            removed.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, last_epoch: int):
        self.path = path
        known = read_table(path)
        self.rows = {row["epoch"]: row for row in known if row["epoch"] <= last_epoch}
        if len(self.rows) < len(known):
            self._write()

    def add(self, epoch: int, images: int, seconds: float) -> None:
        """Add an epoch: images trained on, since the last stop if there was one, and the time."""
        self.rows[epoch] = {
            "epoch": epoch,
            "train_seconds": round(seconds, 3),
            "train_images": images,
            "train_images_per_second": round(images / max(seconds, 1e-9), 3),
        }
        self._write()

    def _write(self) -> None:
        columns = dict.fromkeys(name for row in self.rows.values() for name in row)
        content = io.StringIO()
        writer = csv.DictWriter(content, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows.values())
        with atomic_write(self.path) as file:
            file.write(content.getvalue().encode("utf-8", "replace"))


def read_table(path: Path) -> list[dict[str, int | float]]:
    """Read the rows of such a file that name their epoch; cells without a number are left out.

    A file that is missing or damaged has no rows: nothing depends on them.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        found = [_numbers(row) for row in csv.DictReader(lines)]
    except (OSError, csv.Error):
        return []
    return [row for row in found if isinstance(row.get("epoch"), int)]


def _numbers(row: dict) -> dict[str, float]:
    numbers = {}
    for name, cell in row.items():
        with contextlib.suppress(AttributeError, ValueError):
            number = int(cell) if cell.isdecimal() else float(cell)
            if abs(number) < 1e15:  # no count and no time is larger; NaN is not, either
                numbers[name] = number
    return numbers
