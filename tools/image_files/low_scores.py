"""What tools say, and draw, when no score reaches the threshold."""

from decimal import ROUND_DOWN, Context, Decimal

from torch import Tensor

BEST_SHOWN = 3  # detections of an image


def nothing_found(threshold: float, score: float, name: str, file: str) -> str:
    """Return a line that says that nothing was found, and which threshold to try.

    Args:
        score, name, file: of the best detection.
    """
    return (
        f"no score reaches --threshold {threshold:g}: the best is {rounded_down(score, 2)} "
        f"({name} in {file}); try --threshold {rounded_down(score, 1)}"
    )


def rounded_down(score: float, digits: int) -> str:
    """Return a score with so many significant digits.

    Rounded to the nearest, 0.4996 would be said to be 0.5, and below 0.5.
    """
    return f"{float(Context(digits, ROUND_DOWN).create_decimal(Decimal(score))):g}"


def split_by_score(found: dict, threshold: float) -> tuple[dict, dict]:
    """Return an image's detections of at least this score, and the best few of the others.

    Args:
        found: as from `detector.Detector`, sorted by score.

    Returns:
        Both like `found`; the second is empty unless the first is, and has no masks.
    """
    kept = found["scores"] >= threshold
    few = (found["scores"] < threshold).nonzero().flatten()[: 0 if kept.any() else BEST_SHOWN]
    without_masks = {name: value for name, value in found.items() if name != "masks"}
    return _rows(found, kept.nonzero().flatten()), _rows(without_masks, few)


def _rows(found: dict, rows: Tensor) -> dict:
    chosen = {name: value[rows] for name, value in found.items() if name != "names"}
    return {**chosen, "names": [found["names"][row] for row in rows.tolist()]}


class LowScores:
    """Images on which nothing was found.

    Args:
        threshold: that nothing reached there.
        unit: what they are called.

    Attributes:
        best: (score, name of the class, name of the file) of the best detection on them.
        count: number of images.
    """

    def __init__(self, threshold: float, unit: str = "image"):
        self.threshold, self.unit = threshold, unit
        self.best, self.count = (0.0, "nothing", "any image"), 0

    def add(self, file: str, found: dict) -> None:
        """Count an image with nothing but these detections."""
        self.count += 1
        if found["names"]:
            self.best = max(self.best, (found["scores"][0].item(), found["names"][0], file))

    def explanation(self, total: int) -> str | None:
        """Return a line about these images, of so many in all; None if there are none."""
        if not self.count:
            return None
        if self.count == total:
            return nothing_found(self.threshold, *self.best)
        score, name, file = self.best
        return (
            f"no score reaches --threshold {self.threshold:g} on {self.count} of {total} "
            f"{self.unit}(s): the best there is {rounded_down(score, 2)} ({name} in {file})"
        )
