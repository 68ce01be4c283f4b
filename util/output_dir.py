"""The folder a run writes to, under the file names that DETR's tools expect."""

import json
import os
from pathlib import Path
from typing import Any

from util.checkpoint import save_checkpoint
from util.dist import is_main_process
from util.errors import UserError

RUN_FILES = ("checkpoint*.pth", "log.txt", "eval")


class OutputDir:
    """Writes checkpoints, log and evaluation arrays, on the main process.

    With an empty `path`, and on all other processes, nothing is written.

    Raises:
        UserError: the folder cannot be made or written to.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path) if str(path) and is_main_process() else None
        if self.path is None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output_dir {path}: cannot be made ({error.strerror})") from error
        if not os.access(self.path, os.W_OK):
            raise UserError(f"--output_dir {path}: cannot be written to")

    def holds(self, path: str) -> bool:
        """Is this file one of the folder's own?"""
        return self.path is not None and Path(path).resolve().parent == self.path.resolve()

    def set_aside_earlier_run(self) -> Path | None:
        """Move what another run left here to earlier_run_1, _2, ...; None if there is nothing.

        A new run in the same folder would write over its checkpoints.
        """
        if self.path is None:
            return None
        files = [file for pattern in RUN_FILES for file in sorted(self.path.glob(pattern))]
        if not files:
            return None
        number = 1
        while (self.path / f"earlier_run_{number}").exists():
            number += 1
        aside = self.path / f"earlier_run_{number}"
        aside.mkdir()
        for file in files:
            file.rename(aside / file.name)
        return aside

    def save_training(self, state: dict, epoch: int, keep: bool) -> None:
        """checkpoint.pth, and a copy of its own name where it is to be kept."""
        self._save(state, "checkpoint.pth")
        if keep:
            self._save(state, f"checkpoint{epoch:04}.pth")

    def save_evaluation(self, arrays: Any, epoch: int | None) -> None:
        """pycocotools' arrays: of an epoch of training, or (None) of an evaluation alone."""
        if epoch is None:
            self._save(arrays, "eval.pth")
            return
        self._save(arrays, "eval/latest.pth")
        if epoch % 50 == 0:
            self._save(arrays, f"eval/{epoch:03}.pth")

    def append_log(self, epoch: dict) -> None:
        """One line of log.txt."""
        if self.path is not None:
            with (self.path / "log.txt").open("a") as file:
                file.write(json.dumps(epoch) + "\n")

    def _save(self, content: Any, name: str) -> None:
        if self.path is not None:
            target = self.path / name
            target.parent.mkdir(exist_ok=True)
            save_checkpoint(content, target)
