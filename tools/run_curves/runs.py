"""Find runs in folders, and read their numbers by epoch."""

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detection_task import DETECTION
from training.log import LOG, SPEED_TABLE, flat, read_log, read_table
from training.start.record import last_start, validation_data
from util.errors import UserError


@dataclass
class LoggedRun:
    """A run, finished or not.

    Attributes:
        name: unique among the runs that are shown together.
        epochs: numbers of each epoch, as from `training.log.flat`, with those of speed.csv.
        half_written: whether the last line of the log was incomplete and is left out.
        start: how the run was started the last time, an entry of args.json; {} if unknown.
    """

    name: str
    epochs: list[dict[str, float]]
    half_written: bool = False
    start: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> str:
        """Tell the data of evaluations, see `validation_data`."""
        return validation_data(self.start)

    def points(self, number: str) -> list[tuple[int, float]]:
        """Return epochs, counted from 1, and values of a number where it is finite.

        Scores of -1 are left out: COCO's value for no object.
        """
        points = ((row["epoch"] + 1, row.get(number, math.nan)) for row in self.epochs)
        absent = -1 if "_coco_eval_" in number or "_PQ_" in number else None
        # NaN is not below 1e300; and differences of two such numbers stay finite.
        return [(epoch, y) for epoch, y in points if abs(y) < 1e300 and y != absent]

    def band(self, number: str) -> list[tuple[int, float, float]]:
        """Return epochs and the lowest and highest value of several seeds; none for one run."""
        return []

    def count(self) -> str:
        """Say how many epochs there are."""
        last = self.epochs[-1]["epoch"] + 1
        return str(last) if last == len(self.epochs) else f"{len(self.epochs)}, last {last}"


def read_run(folder: Path, name: str = "") -> LoggedRun:
    """Read the run of an --output_dir.

    Raises:
        UserError: the log is missing, or is not one.
    """
    rows, half_written = read_log(folder / LOG, DETECTION.log)
    speed = {row["epoch"]: row for row in read_table(folder / SPEED_TABLE)}
    epochs = [speed.get(row["epoch"], {}) | flat(row, DETECTION.log) for row in rows]
    name = name or folder.resolve().name
    return LoggedRun(name, epochs, half_written, last_start(folder))


def read_runs(paths: list[Path]) -> tuple[list[LoggedRun], list[str]]:
    """Read the runs of folders that are an --output_dir or contain some; each run once.

    Returns:
        The runs, named by the shortest ends of their paths that differ; and notes on runs that are
        incomplete or left out, one line each.

    Raises:
        UserError: a folder has no run, a log is not one, or no run has an epoch.
    """
    folders: dict[Path, Path] = {}
    notes = []
    for path in paths:
        inside = find_runs(path)
        if not inside:
            what = (
                "has no log.txt, nor has any folder in it" if path.is_dir() else "is not a folder"
            )
            raise UserError(f"{path}: {what}; give the --output_dir of runs, or a folder of them")
        for folder in inside:
            folders.setdefault(folder.resolve(), folder)
    names = short_names([Path(os.path.abspath(folder)) for folder in folders.values()])
    runs = []
    for folder, name in zip(folders.values(), names, strict=True):
        try:
            run = read_run(folder, name)
        except UserError as error:
            if folder in paths:
                raise
            notes.append(f"left out: {error}")
            continue
        if run.half_written:
            notes.append(f"{folder / LOG}: its last line is half-written and left out")
        if run.epochs:
            runs.append(run)
        else:
            notes.append(f"{folder / LOG}: no epoch is complete yet")
    if not runs:
        raise UserError(f"no run to show: {'; '.join(notes)}")
    return runs, notes


def find_runs(folder: Path) -> list[Path]:
    """Return `folder` if it has a log.txt, or else all folders below it that do, in order.

    Folders inside a run's own are not searched: they hold earlier runs, such as earlier_run_1.
    """
    runs, seen = [], set()
    for path, inside, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(path)
        if LOG in files:
            runs.append(Path(path))
        if LOG in files or here in seen:
            inside.clear()  # os.walk goes no deeper
        seen.add(here)
        inside.sort(key=_by_number)
    return runs


def _by_number(name: str) -> list:
    """Sort key that puts run_2 before run_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def short_names(paths: list[Path]) -> list[str]:
    """Return for each of the paths, which differ, its shortest end that no other path has."""
    names = []
    for path in paths:
        others = [other.parts for other in paths if other != path]
        parts = path.parts
        length = next(
            (n for n in range(1, len(parts)) if all(o[-n:] != parts[-n:] for o in others)),
            len(parts),
        )
        name = str(Path(*parts[-length:]))
        # A file's name may have bytes that are not UTF-8, which cannot be printed.
        names.append(os.fsencode(name).decode("utf-8", "replace"))
    return names
