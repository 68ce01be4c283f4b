"""The numbers of each epoch as events for TensorBoard."""

import re
from pathlib import Path

from training.log import PLAIN, LogFormat
from util.errors import UserError

EVENTS_FOLDER = "tensorboard"
EVENTS = "events.out.tfevents.*"


def check_tensorboard(output_dir: str) -> None:
    """Raise a UserError if there is no folder, or no package, for --tensorboard."""
    if not output_dir:
        raise UserError("--tensorboard needs an --output_dir to write to")
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--tensorboard needs a package that is missing ({error}); "
            "`pip install tensorboard` installs it"
        ) from error


class TensorBoardLog:
    """Writes each epoch's numbers as a step; a resumed run has each epoch once.

    Args:
        folder: for the files of events; those of earlier parts of the run stay.
        rows: numbers of the epochs so far, from `training.log.flat`. All are written where the
            folder has no events yet, else the last one again: a kill may have lost it.
        log_format: of the task.

    Raises:
        UserError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, rows: list[dict[str, float]], log_format: LogFormat = PLAIN):
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        self.log_format = log_format
        goes_on = folder.is_dir() and any(folder.glob(EVENTS))
        new = rows[-1:] if goes_on else rows
        try:
            # Events after this step belong to an abandoned part of the run.
            self._writer = SummaryWriter(str(folder), purge_step=int(new[0]["epoch"]) if new else 0)
        except OSError as error:
            raise self._error(error) from error
        self._write(new)

    def add(self, row: dict[str, float]) -> None:
        """Write the numbers of one more epoch."""
        self._write([row])

    def _write(self, rows: list[dict[str, float]]) -> None:
        try:
            for row in rows:
                for name, value in row.items():
                    if name != "epoch" and not (value == -1 and self.log_format.is_score(name)):
                        shown = self.log_format.tag(name) or tag(name)
                        self._writer.add_scalar(shown, value, int(row["epoch"]))
            self._writer.flush()
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> UserError:
        return UserError(f"{self.folder}: cannot write events ({error.strerror or error})")


def tag(name: str) -> str:
    """Return TensorBoard's name of a number; it groups numbers by what is before the slash.

    "train/loss_ce", "test/loss_ce", "speed/images_per_second"; terms of single decoder layers and
    terms without their weights are apart: "train_terms/loss_ce_0".
    """
    split, _, term = name.partition("_")
    if split not in ("train", "test"):
        return f"run/{name}"
    if re.search(r"_\d+$|_unscaled$", term):
        return f"{split}_terms/{term}"
    if split == "train" and term in ("seconds", "images", "images_per_second"):
        return f"speed/{term}"
    return f"{split}/{term}"
