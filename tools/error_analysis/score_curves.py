"""Precision, recall and F1 of detections by the lowest score of those that count."""

from dataclasses import dataclass

import numpy as np

POINTS = 100  # of a drawn curve, along its scores and along its recall
MOST_DIGITS = 8  # of a threshold: float32 tells no more


@dataclass
class ScoreCurve:
    """How good detections are for each threshold that makes a difference.

    Attributes:
        scores: (n,) float64, the distinct scores of the detections, falling; n is at least 1. At
            each place, detections with at least this score count.
        precision: (n,) float64, the share of these that are right.
        recall: (n,) float64, the share of all objects that are found.
        f1: (n,) float64, the harmonic mean of both.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, hits: np.ndarray, objects: int) -> "ScoreCurve | None":
        """Return the curve of detections with scores (n,), of which hits (n,) bool are right.

        A hit stays one whatever the threshold is: `match_image` lets the surest choose first.

        Returns:
            None if no detection is right, as without objects or detections.
        """
        if not hits.any():
            return None
        order = np.argsort(-scores, kind="stable")
        falling = scores[order].astype(np.float64)
        ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)  # of equal scores
        right, counted = np.cumsum(hits[order])[ends], ends + 1
        f1 = 2 * right / (counted + objects)
        return cls(falling[ends], right / counted, right / objects, f1)

    @property
    def best(self) -> int:
        """The place of the highest F1; of equal ones that with the highest score."""
        return int(self.f1.argmax())

    def best_threshold(self) -> float:
        """Return the threshold with the fewest digits that keeps what the best one keeps."""
        score = self.scores[self.best]
        below = self.scores[self.best + 1] if self.best + 1 < len(self.scores) else -1.0
        for digits in range(1, MOST_DIGITS + 1):
            rounded = float(np.floor(score * 10**digits) / 10**digits)
            if np.float32(rounded) > below:  # scores are compared as float32
                return rounded
        return float(score)

    def points(self) -> list[int]:
        """Return the places to draw, rising: evenly by score and by recall, and the best one."""
        steps = np.arange(POINTS + 1) / POINTS
        by_score = np.searchsorted(-self.scores, -steps, side="right") - 1
        by_recall = np.searchsorted(self.recall, steps)
        places = np.concatenate([by_score, by_recall, [0, self.best, len(self.scores) - 1]])
        return np.unique(places[(places >= 0) & (places < len(self.scores))]).tolist()
