"""Which evaluation of a run was the best, as the rows of log.txt tell."""

from typing import NamedTuple

# The number that decides is the first that a row has: its key, and its place behind it.
MAIN_NUMBERS = {
    "PQ": ("test_PQ_all", "pq"),
    "AP of masks": ("test_coco_eval_masks", 0),
    "AP of boxes": ("test_coco_eval_bbox", 0),
}


class MainNumber(NamedTuple):
    """The number that an evaluation is judged by.

    Attributes:
        name: a key of MAIN_NUMBERS.
        value: from 0 to 1, more is better.
        epoch: after which it was measured.
    """

    name: str
    value: float
    epoch: int

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4f} of epoch {self.epoch}"


class Evaluations:
    """The evaluations of a run so far that have the newest one's main number.

    Args:
        rows: of log.txt, in order of epochs. Without evaluation, or with nothing to score, a row
            has no such number, and does not count.
    """

    def __init__(self, rows: list[dict]):
        numbers = [number for row in rows if (number := main_number(row)) is not None]
        self._numbers = [number for number in numbers if number.name == numbers[-1].name]

    def best(self) -> MainNumber | None:
        """The first of the best ones; None if there is none."""
        return max(self._numbers, key=lambda number: number.value, default=None)

    def since_best(self) -> int:
        """How many came after it, none of them better."""
        best = self.best()
        return 0 if best is None else len(self._numbers) - 1 - self._numbers.index(best)


def main_number(row: dict) -> MainNumber | None:
    """Of a row of log.txt; None if it has none."""
    for name, (key, place) in MAIN_NUMBERS.items():
        try:
            value = row[key][place]
        except (KeyError, IndexError, TypeError):
            continue
        if isinstance(value, int | float) and value >= 0:  # -1: there is nothing to find
            return MainNumber(name, value, row["epoch"])
    return None
