"""The folder a run writes to, under the file names that DETR's tools expect."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.early_stopping import Evaluations
from training.log_file import LOG, LogFile
from training.run_lock import lock_folder
from training.run_tables import (
    EVENTS_FOLDER,
    LOG_TABLE,
    SPEED_TABLE,
    RunTables,
)
from util.checkpoint import load_checkpoint, save_checkpoint
from util.distributed import broadcast_from_main, is_main_process, print_main
from util.errors import UserError
from util.files import atomic_write, report_write_errors

MAPS = "panoptic_eval"
REPORT = "finetune.txt"
CURVES, DETECTIONS = "curves.png", "detections.png"  # drawn by tools/show_run.py
RUN_FILES = (
    "checkpoint*.pth", LOG, LOG_TABLE, SPEED_TABLE, EVENTS_FOLDER, REPORT, "eval", MAPS, CURVES,
    DETECTIONS,
)  # fmt: skip
LAST = "checkpoint.pth"
BEST = "checkpoint_best.pth"


class OutputDir:
    """Writes checkpoints, log and evaluation arrays, on the main process.

    With an empty `path` nothing is written, and nothing on other processes.

    Args:
        tensorboard: write the numbers of each epoch for TensorBoard, too.

    Attributes:
        is_nowhere: nothing is written by any process.

    Raises:
        UserError: the folder cannot be made or written to.
    """

    def __init__(self, path: str | Path, tensorboard: bool = False):
        self.is_nowhere = not str(path)
        self.path = Path(path) if is_main_process() and not self.is_nowhere else None
        if self.path is None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output_dir {path}: cannot be made ({error.strerror})") from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise UserError(f"--output_dir {path}: cannot be written to")
        self._tables = RunTables(self.path, tensorboard)

    def newest_checkpoint(self) -> tuple[str, Any]:
        """Path and content of the folder's newest whole checkpoint; "" and None without any.

        Raises:
            UserError: there are checkpoints, and none of them is whole.
        """
        found, content = self._newest_checkpoint()
        path = broadcast_from_main(found)
        if path and not is_main_process():
            content = load_checkpoint(path)
        return path, content

    def _newest_checkpoint(self) -> tuple[str, Any]:
        if self.path is None:
            return "", None
        kept = sorted(self.path.glob("checkpoint[0-9]*.pth"), reverse=True)
        found = [path for path in (self.path / LAST, *kept, self.path / BEST) if path.is_file()]
        for path in found:
            try:
                return str(path), load_checkpoint(str(path))
            except UserError as error:
                print_main(f"--resume auto: {error}")
        if found:
            raise UserError(
                f"--resume auto: none of the checkpoints in {self.path} is whole; without --resume "
                "a new run starts and moves them aside"
            )
        return "", None

    def continue_run(self, resumed: str, epoch: int, rows: list[dict]) -> list[dict]:
        """Make the folder that of a run whose last complete epoch is `epoch`.

        What another run, or a later part of this one, left here is moved to earlier_run_1, _2, ...
        Missing rows of log.txt are written, and repeated ones removed; its tables follow it.

        Args:
            resumed: the checkpoint; "" for a new run.
            rows: of log.txt, as the checkpoint knows them.

        Returns:
            The rows of log.txt, on the main process.

        Raises:
            UserError: another run is training into the folder, or it cannot be written to.
        """
        if self.path is None:
            return rows
        self._lock = lock_folder(self.path)  # held as long as this object
        log = LogFile(self.path / LOG)
        own = bool(resumed) and Path(resumed).resolve().parent == self.path.resolve()
        if not own:
            self._set_aside([file for name in RUN_FILES for file in sorted(self.path.glob(name))])
        elif Path(resumed).name != LAST:
            later = [LAST]
            best = Evaluations(log.read(sys.maxsize)[0]).best()
            if best is not None and best.epoch > epoch:
                later.append(BEST)
            self._set_aside([self.path / name for name in later if (self.path / name).exists()])
        known, extra = log.read(epoch)
        if extra:
            aside = self._new_folder()
            for file in (log.path, self.path / SPEED_TABLE):
                if file.is_file():
                    shutil.copy2(file, aside)
        rows = sorted({row["epoch"]: row for row in (*rows, *known)}.values(), key=_epoch)
        log.write(rows)
        self._tables.go_on(epoch, rows)
        return rows

    def _set_aside(self, files: list[Path]) -> None:
        if not files:
            return
        aside = self._new_folder()
        for file in files:
            file.rename(aside / file.name)
        print_main(f"{self.path} held an earlier run, its files are now in {aside}")

    def _new_folder(self) -> Path:
        number = 1
        while (self.path / f"earlier_run_{number}").exists():
            number += 1
        aside = self.path / f"earlier_run_{number}"
        aside.mkdir()
        return aside

    def save_training(self, state: dict) -> None:
        """Write checkpoint.pth."""
        self._save(state, LAST)

    def keep_checkpoint(self, epoch: int) -> None:
        """Give checkpoint.pth, which is of the end of this epoch, a second name that stays."""
        self._keep(f"checkpoint{epoch:04}.pth")

    def keep_best(self) -> None:
        """Let checkpoint_best.pth be what checkpoint.pth is now."""
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
        """pycocotools' arrays: of an epoch of training, or (None) of an evaluation alone."""
        if epoch is None:
            self._save(arrays, "eval.pth")
            return
        self._save(arrays, "eval/latest.pth")
        if epoch % 50 == 0:
            self._save(arrays, f"eval/{epoch:03}.pth")

    def save_maps(self, save: Callable[[Path], None]) -> None:
        """Let `save` write the maps of the newest panoptic evaluation into their folder."""
        if self.path is not None:
            save(self.path / MAPS)

    def save_report(self, text: str) -> None:
        """What became of the weights that a new run starts from; nothing if there is no text."""
        if self.path is not None and text:
            with atomic_write(self.path / REPORT) as file:
                file.write(text.encode(errors="backslashreplace"))

    def append_log(self, row: dict) -> None:
        """One line of log.txt, and of its tables."""
        if self.path is not None:
            LogFile(self.path / LOG).append(row)
            self._tables.add(row)

    def save_speed(self, epoch: int, images: int, seconds: float) -> None:
        """One line of speed.csv; none where a resumed epoch had no image left."""
        if self.path is not None and images:
            self._tables.add_speed(epoch, images, seconds)

    def _save(self, content: Any, name: str) -> None:
        if self.path is not None:
            target = self.path / name
            with report_write_errors(target):
                target.parent.mkdir(exist_ok=True)
            save_checkpoint(content, target)


def _epoch(row: dict) -> int:
    return row["epoch"]
