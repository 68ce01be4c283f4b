"""What a run's folder has of its epochs besides log.txt: log.csv, speed.csv, tensorboard/."""

from pathlib import Path

from training.log_rows import flat
from training.number_table import read_table, write_table
from training.tensorboard_log import TensorBoardLog

LOG_TABLE, SPEED_TABLE, EVENTS_FOLDER = "log.csv", "speed.csv", "tensorboard"


class RunTables:
    """Makes tables of the rows of log.txt, and keeps how fast each epoch was trained.

    Times are in a file of their own: those of two runs differ, and every number of log.txt is the
    same in a run that was stopped and one that was not.

    Args:
        folder: the run's.
        tensorboard: write events for TensorBoard, too.
    """

    def __init__(self, folder: Path, tensorboard: bool = False):
        self.folder = folder
        self.tensorboard = tensorboard
        self._rows: list[dict] = []
        self._speed: dict[int, dict] = {}
        self._board: TensorBoardLog | None = None

    def go_on(self, epoch: int, rows: list[dict]) -> None:
        """Let the files be those of a run whose last complete epoch is `epoch`.

        Args:
            rows: of log.txt.

        Raises:
            UserError: they cannot be written.
        """
        self._rows = [flat(row) for row in rows]
        path = self.folder / SPEED_TABLE
        known = read_table(path)
        self._speed = {row["epoch"]: row for row in known if row["epoch"] <= epoch}
        if len(self._speed) < len(known):
            write_table(path, list(self._speed.values()))
        if rows or (self.folder / LOG_TABLE).exists():
            write_table(self.folder / LOG_TABLE, self._rows)
        if self.tensorboard:
            self._board = TensorBoardLog(
                self.folder / EVENTS_FOLDER, [self._with_speed(row) for row in self._rows]
            )

    def add(self, row: dict) -> None:
        """A row of log.txt that is new."""
        self._rows.append(flat(row))
        write_table(self.folder / LOG_TABLE, self._rows)
        if self._board is not None:
            self._board.add(self._with_speed(self._rows[-1]))

    def add_speed(self, epoch: int, images: int, seconds: float) -> None:
        """How long training took for the images of an epoch, or for those since the last stop."""
        self._speed[epoch] = {
            "epoch": epoch,
            "train_seconds": round(seconds, 3),
            "train_images": images,
            "train_images_per_second": round(images / max(seconds, 1e-9), 3),
        }
        write_table(self.folder / SPEED_TABLE, list(self._speed.values()))

    def _with_speed(self, row: dict) -> dict:
        return self._speed.get(row["epoch"], {}) | row
