"""The folder a run writes to, under the file names that DETR's tools expect."""

import contextlib
import itertools
import os
import re
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from training.early_stopping import Evaluations, Metric
from training.log import LOG, PLAIN, SPEED_TABLE, LogFile, LogFormat, SpeedTable, flat
from training.start.options import BEST, LAST, OF_EPOCHS
from training.tensorboard_log import EVENTS_FOLDER, TensorBoardLog
from util.checkpoint import load_checkpoint, save_checkpoint
from util.distributed import broadcast_from_main, is_main_process, print_main
from util.errors import UnreadableError, UserError
from util.files import atomic_write, open_regular, report_write_errors

MAPS = "panoptic_eval"
REPORT = "finetune.txt"
STARTS = "args.json"
CURVES, DETECTIONS = "curves.png", "detections.png"  # drawn by tools/show_run.py
# What a new run in the same folder moves aside; log.csv is of earlier versions.
RUN_FILES = (
    "checkpoint*.pth", LOG, "log.csv", SPEED_TABLE, EVENTS_FOLDER, REPORT, "eval", MAPS, CURVES,
    DETECTIONS, STARTS,
)  # fmt: skip
LOCK = ".lock"


class OutputDir:
    """Writes checkpoints, log and evaluation arrays, on the main process.

    With an empty `path` nothing is written, and nothing on other processes.

    Args:
        metrics: what evaluations are compared by, see `training.early_stopping`.
        tensorboard: write the numbers of each epoch for TensorBoard, too.
        log_format: of the task's entries of log.txt.

    Attributes:
        is_nowhere: nothing is written by any process.

    Raises:
        UserError: the folder cannot be made or written to.
    """

    def __init__(
        self,
        path: str | Path,
        metrics: Sequence[Metric] = (),
        tensorboard: bool = False,
        log_format: LogFormat = PLAIN,
    ):
        self.metrics = metrics
        self.log_format = log_format
        self.tensorboard = tensorboard
        self.is_nowhere = not str(path)
        self._found: tuple[str, os.stat_result] | None = None
        self.path = Path(path) if is_main_process() and not self.is_nowhere else None
        if self.path is None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output_dir {path}: cannot be made ({error.strerror})") from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise UserError(f"--output_dir {path}: cannot be written to")

    def newest_checkpoint(self, trust: bool = False) -> tuple[str, Any]:
        """Return path and content of the folder's newest complete checkpoint, or "" and None.

        Args:
            trust: see `load_checkpoint`.

        Raises:
            UserError: there are checkpoints, and none of them is complete; or one that may be
                cannot be read now.
        """
        found, content = self._newest_checkpoint(trust)
        path = broadcast_from_main(found)
        if path and not is_main_process():
            content = load_checkpoint(path, trust)
        return path, content

    def _newest_checkpoint(self, trust: bool) -> tuple[str, Any]:
        if self.path is None:
            return "", None
        last, best = self.path / LAST, self.path / BEST
        found = [path for path in (last, *reversed(self._kept()), best) if path.is_file()]
        for path in found:
            self._found = str(path), path.stat()
            try:
                return str(path), load_checkpoint(str(path), trust)
            except UnreadableError:
                raise  # an older one would repeat what this one may hold
            except UserError as error:
                print_main(f"--resume auto: {error}")
        if found:
            raise UserError(
                f"--resume auto: none of the checkpoints in {self.path} is complete; without "
                "--resume a new run starts and moves them aside"
            )
        return "", None

    def _kept(self) -> list[Path]:
        """Return the checkpoints of epochs, in their order."""
        assert self.path is not None
        return sorted(self.path.glob(OF_EPOCHS))

    def continue_run(self, resumed: str, epoch: int, rows: list[dict]) -> list[dict]:
        """Prepare the folder for a run whose last complete epoch is `epoch`.

        Files of another run, or of a later part of this one, are moved to earlier_run_1, _2, ...
        Missing rows of log.txt are written and repeated ones removed, also of its tables.

        Args:
            resumed: path of the checkpoint; "" for a new run.
            rows: of log.txt, from the checkpoint.

        Returns:
            The rows of log.txt, on the main process.

        Raises:
            UserError: another run is training into the folder, or was when the checkpoint was
                read; or it cannot be written to.
        """
        if self.path is None:
            return rows
        self._lock = lock_folder(self.path)  # held as long as this object
        if self._found is not None and self._found[0] == resumed:
            read, now = self._found[1], Path(resumed).stat()
            if (read.st_ino, read.st_mtime_ns) != (now.st_ino, now.st_mtime_ns):
                raise UserError(
                    f"--resume auto: another run has written {resumed} since it was read; start "
                    "again to go on from there"
                )
        log = LogFile(self.path / LOG, self.log_format)
        # The checkpoint may be a link to another disk.
        homes = (Path(resumed).parent.resolve(), Path(resumed).resolve().parent) if resumed else ()
        if self.path.resolve() not in homes:
            self._set_aside([file for name in RUN_FILES for file in sorted(self.path.glob(name))])
        elif Path(resumed).name != LAST:
            later = [LAST]
            for name in (file.name for file in self._kept() if file.name != Path(resumed).name):
                number = re.fullmatch(r"checkpoint(\d+)\.pth", name)
                if number is not None and int(number[1]) > epoch:
                    later.append(name)
            best = Evaluations(log.read(sys.maxsize)[0], self.metrics).best()
            if best is not None and best.epoch > epoch:
                later.append(BEST)
            self._set_aside([self.path / name for name in later if (self.path / name).exists()])
        known, extra = log.read(epoch)
        if extra:
            aside = self._new_folder()
            for file in (log.path, self.path / SPEED_TABLE):
                if file.is_file():
                    shutil.copy2(file, aside)
        by_epoch = {row["epoch"]: row for row in (*rows, *known)}
        rows = [by_epoch[epoch] for epoch in sorted(by_epoch)]
        log.write(rows)
        self._speed = SpeedTable(self.path / SPEED_TABLE, epoch)
        self._board = None
        if self.tensorboard:
            numbers = [self._with_speed(row) for row in rows]
            self._board = TensorBoardLog(self.path / EVENTS_FOLDER, numbers, self.log_format)
        return rows

    def _with_speed(self, row: dict) -> dict[str, int | float]:
        return self._speed.rows.get(row["epoch"], {}) | flat(row, self.log_format)

    def _set_aside(self, files: list[Path]) -> None:
        if not files:
            return
        aside = self._new_folder()
        for file in files:
            file.rename(aside / file.name)
        print_main(f"{self.path} held an earlier run, its files are now in {aside}")

    def _new_folder(self) -> Path:
        assert self.path is not None  # only the main process has files to move
        aside = first_free(self.path, "earlier_run_{}")
        aside.mkdir()
        return aside

    def save_training(self, state: dict) -> None:
        """Write checkpoint.pth."""
        self._save(state, LAST)

    def keep_checkpoint(self, epoch: int) -> None:
        """Keep checkpoint.pth, which is of the end of this epoch, under a second name."""
        self._keep(f"checkpoint{epoch:04}.pth")

    def keep_best(self) -> None:
        """Keep checkpoint.pth as checkpoint_best.pth."""
        self._keep(BEST)

    def _keep(self, name: str) -> None:
        if self.path is None:
            return
        last, kept = (Path(os.path.realpath(self.path / given)) for given in (LAST, name))
        temporary = kept.with_name(f".{kept.name}.part")
        with report_write_errors(kept):
            temporary.unlink(missing_ok=True)
            try:
                os.link(last, temporary)
            except OSError:  # not every file system has links
                shutil.copy2(last, temporary)
            temporary.replace(kept)

    def save_evaluation(self, arrays: Any, epoch: int | None) -> None:
        """Write pycocotools' arrays of an epoch of training, or (None) of an evaluation alone."""
        if epoch is None:
            self._save(arrays, "eval.pth")
            return
        self._save(arrays, "eval/latest.pth")
        if epoch % 50 == 0:
            self._save(arrays, f"eval/{epoch:03}.pth")

    def save_report(self, text: str) -> None:
        """Write what --finetune did with each tensor; nothing if there is no text."""
        if self.path is not None and text:
            with atomic_write(self.path / REPORT) as file:
                file.write(text.encode(errors="backslashreplace"))

    def append_log(self, row: dict) -> None:
        """Add an epoch to log.txt, and to TensorBoard's events."""
        if self.path is not None:
            LogFile(self.path / LOG).append(row)
            if self._board is not None:
                self._board.add(self._with_speed(row))

    def save_speed(self, epoch: int, images: int, seconds: float) -> None:
        """Add an epoch to speed.csv, unless a resumed epoch had no image left."""
        if self.path is not None and images:
            self._speed.add(epoch, images, seconds)

    def _save(self, content: Any, name: str) -> None:
        if self.path is not None:
            target = self.path / name
            with report_write_errors(target):
                target.parent.mkdir(exist_ok=True)
            save_checkpoint(content, target)


def first_free(folder: Path, pattern: str) -> Path:
    """Return the first path at which nothing is; "{}" in `pattern` becomes 1, 2, ..."""
    names = (folder / pattern.format(number) for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def lock_folder(folder: Path) -> BinaryIO | None:
    """Lock a folder for as long as the returned file stays open and this process lives.

    The system releases the lock when the process ends in any way. It is one of `lockf`, which
    loader workers do not inherit as they would one of `flock`: a killed run can be resumed at once.

    Returns:
        The locked file; None where the file system has no locks, and the run goes on without.

    Raises:
        UserError: another process holds the lock, or the file cannot be made.
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
