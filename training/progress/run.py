"""How much of a whole run is done and left, and how epochs are counted for people."""

import time


def epoch_of(epoch: int | None, epochs: int | None = None, word: str = "epoch") -> str:
    """Return how every message calls an epoch: "epoch 1/20" is the first one.

    Args:
        epoch: counted from 0, as log.txt and checkpoints do; None for no epoch, just the word.
        epochs: of the whole run; None if they are not known.
        word: "eval" for the evaluation of the epoch.
    """
    if epoch is None:
        return word
    return f"{word} {epoch + 1}" if epochs is None else f"{word} {epoch + 1}/{epochs}"


def short_time(seconds: float) -> str:
    """Format a duration by its two largest units: "45s", "12m05s", "1h23m", "2d04h"."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


class RunProgress:
    """How much of a whole run is done and left, in batches of training; str() of it is shown.

    Args:
        total: batches of all epochs, evaluations included.
        done: batches before the run was resumed.
        epochs: of the whole run; None if they are not known.
    """

    def __init__(self, total: float, done: float = 0, epochs: int | None = None):
        self.total = total
        self.done = self._done_before = done
        self.epochs = epochs
        self._start = time.monotonic()

    def __str__(self) -> str:
        here = self.done - self._done_before
        pace = (time.monotonic() - self._start) / here if here else 0
        left = short_time(max(self.total - self.done, 0) * pace)
        return f"run {min(self.done / self.total, 1):.0%} {left} left"
