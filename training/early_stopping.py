"""Which evaluation of a run was the best, by the rows of log.txt, and how long ago that was."""

from collections.abc import Sequence
from typing import NamedTuple


class Metric(NamedTuple):
    """A number that evaluations can be compared by: from 0 to 1, higher is better.

    Attributes:
        name: what messages call it.
        key, place: where a row has it: `row[key]`, or `row[key][place]` if there is a place.
    """

    name: str
    key: str
    place: str | int | None = None


class Score(NamedTuple):
    """The value of the metric that decides, after an epoch, which is counted from 0."""

    name: str
    value: float
    epoch: int

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4f}"


class Evaluations:
    """The evaluations of a run so far that have the same deciding metric as the newest one.

    Args:
        rows: of log.txt, in order of epochs. A row without evaluation, or with nothing to score,
            has no score and does not count.
        metrics: the first one that a row has decides.
    """

    def __init__(self, rows: list[dict], metrics: Sequence[Metric]):
        scores = [score for row in rows if (score := score_of(row, metrics)) is not None]
        self._scores = [score for score in scores if score.name == scores[-1].name]

    def best(self) -> Score | None:
        """Return the best score, the first of equal ones; None without any."""
        return max(self._scores, key=lambda score: score.value, default=None)

    def since_best(self) -> int:
        """Return how many evaluations came after the best one, none of them better."""
        best = self.best()
        return 0 if best is None else len(self._scores) - 1 - self._scores.index(best)


def score_of(row: dict, metrics: Sequence[Metric]) -> Score | None:
    """Return the score of a row of log.txt by the first metric that it has; None without any."""
    for name, key, place in metrics:
        try:
            value = row[key] if place is None else row[key][place]
        except (KeyError, IndexError, TypeError):
            continue
        if isinstance(value, int | float) and value >= 0:  # -1: there is nothing to find
            return Score(name, value, row["epoch"])
    return None
