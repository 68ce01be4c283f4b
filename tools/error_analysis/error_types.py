"""Say of each detection and each object of an image which type of error it is.

The types follow the idea of TIDE (Bolya et al., 2020, https://arxiv.org/abs/2008.08115). The rules
for one image, where `iou` is the IoU threshold of a hit (0.5) and NEAR that of a near miss:

1. Detections, the one with the highest score first, are each matched with the object of their
   class that they overlap most, among those not yet matched and with an IoU of at least `iou`:
   *correct*. These are COCO's matches.
2. An unmatched detection of which at least `iou` lies in a crowd of its class is not counted, as in
   COCO's scoring; crowds themselves are not objects.
3. Detections that are left are matched with objects of any class in the same way: *wrong class*.
4. The rest stay unmatched. With an IoU of at least `iou` with an object of its class, which is
   matched with another, a detection is a *duplicate*; else with at least `iou` with an object of
   another class *wrong class*; else with at least NEAR with one of its class *poor localisation*;
   else with at least NEAR with one of another class *class and place*; else *background*.
5. An unmatched object gets the type poor localisation, or else class and place, if a detection of
   that type overlaps it most among the unmatched objects; else it is *missed*.

So each detection and each object has one type. Rules 3 to 5 see only detections with a score of at
least the threshold; rule 1 gives the same for those whether the others are there or not.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

NEAR = 0.1
CORRECT, WRONG_CLASS, POOR_LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(7)
NOT_COUNTED = -1
NO_MATCH = -1  # in a pair of labels: no object, or no detection


class ErrorType(NamedTuple):
    name: str
    meaning: str  # with {iou} and {near} for the IoU thresholds


ERROR_TYPES = (
    ErrorType("correct", "the class is right and the overlap (IoU) at least {iou}"),
    ErrorType("wrong class", "overlap of at least {iou} with an object of another class"),
    ErrorType("poor localisation", "the class is right, the overlap between {near} and {iou}"),
    ErrorType(
        "class and place", "overlap between {near} and {iou}, with objects of other classes only"
    ),
    ErrorType(
        "duplicate", "class and overlap are right, but another detection has taken the object"
    ),
    ErrorType("background", "overlap of less than {near} with every object"),
    ErrorType("missed", "an object that no detection is about"),
)


class ImageObjects(NamedTuple):
    """An image's m objects: boxes (m, 4) as COCO's (x, y, w, h); labels (m,); crowds (m,) bool."""

    boxes: np.ndarray
    labels: np.ndarray
    crowds: np.ndarray


class ImageDetections(NamedTuple):
    """An image's n detections: boxes (n, 4) as COCO's (x, y, w, h); labels (n,); scores (n,)."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


@dataclass
class ImageErrors:
    """Error types of an image's n detections and m objects.

    Attributes:
        detection_types: (n,) int64; NOT_COUNTED below the threshold and in crowds.
        object_types: (m,) int64; NOT_COUNTED for crowds.
        matches: (n,) int64, the object that each detection is matched with, or -1; -1 below the
            threshold.
        hits: (n,) bool, detections of any score that are correct among all.
        in_crowd: (n,) bool, detections of any score that rule 2 leaves out.
    """

    detection_types: np.ndarray
    object_types: np.ndarray
    matches: np.ndarray
    hits: np.ndarray
    in_crowd: np.ndarray

    def weight(self, detections: ImageDetections) -> float:
        """Return how bad the image is: the scores of false detections, plus 1 a missed object."""
        false = self.detection_types > CORRECT
        return float(detections.scores[false].sum() + (self.object_types == MISSED).sum())


def match_image(
    objects: ImageObjects, detections: ImageDetections, threshold: float = 0.5, iou: float = 0.5
) -> ImageErrors:
    """Match detections with objects, and give each an error type by the rules above.

    Args:
        threshold: lowest score of the detections that get a type.
        iou: IoU threshold of a hit, above NEAR.
    """
    single = ~objects.crowds
    same = detections.labels[:, None] == objects.labels
    overlaps = _overlaps(objects, detections)
    overlap = np.where(single, overlaps, 0)
    order = np.argsort(-detections.scores, kind="stable")

    matches = np.full(len(order), -1)
    _match_greedily(matches, order, np.where(same, overlap, 0), iou)
    hits = matches >= 0
    in_crowd = ~hits & (same & ~single & (overlaps >= iou)).any(1)
    shown = (detections.scores >= threshold) & ~in_crowd
    matches[~shown] = -1
    _match_greedily(matches, order[(shown & ~hits)[order]], overlap, iou)
    types = np.select([~shown, hits, matches >= 0], [NOT_COUNTED, CORRECT, WRONG_CLASS], BACKGROUND)

    object_types = np.where(single, MISSED, NOT_COUNTED)
    matched = matches >= 0
    object_types[matches[matched]] = types[matched]
    free = object_types == MISSED
    for i in np.flatnonzero(types == BACKGROUND):
        over, near = overlap[i] >= iou, overlap[i] >= NEAR
        if over.any():
            types[i] = DUPLICATE if (over & same[i]).any() else WRONG_CLASS
        elif near.any():
            types[i] = POOR_LOCALISATION if (near & same[i]).any() else BOTH
            about = near & free & (same[i] | (types[i] == BOTH))
            if about.any():
                best = np.where(about, overlap[i], 0).argmax()
                object_types[best] = min(object_types[best], types[i])
    return ImageErrors(types, object_types, matches, hits, in_crowd)


def confusion_pairs(
    objects: ImageObjects, detections: ImageDetections, errors: ImageErrors
) -> np.ndarray:
    """Return entries of a confusion matrix: (p, 2) int64, labels of an object and its detection.

    NO_MATCH stands for the object of a detection that has none, such as duplicates and near misses,
    and for the detection of an object that has none. Each object and each detection that is counted
    is in one pair.
    """
    counted = errors.detection_types != NOT_COUNTED
    matches = errors.matches[counted]
    truth = np.append(objects.labels, NO_MATCH)[matches]  # index -1 is the one appended
    left = errors.object_types != NOT_COUNTED
    left &= ~np.isin(np.arange(len(objects.labels)), matches)
    unmatched = objects.labels[left]
    return np.concatenate(
        [
            np.stack([truth, detections.labels[counted]], 1),
            np.stack([unmatched, np.full_like(unmatched, NO_MATCH)], 1),
        ]
    ).astype(np.int64)


@dataclass
class Calibration:
    """How often detections are right, by score, in equal bins from 0 to 1.

    Attributes:
        hits, misses: (bins,) int64, numbers of detections.
        scores: (bins,) float64, sums of their scores.
    """

    hits: np.ndarray
    misses: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, hits: np.ndarray, bins: int = 10) -> "Calibration":
        """Count detections with scores (n,), of which hits (n,) bool are right."""
        place = np.minimum((scores.astype(np.float64) * bins).astype(np.int64), bins - 1)
        right = np.bincount(place[hits], minlength=bins)
        wrong = np.bincount(place[~hits], minlength=bins)
        return cls(right, wrong, np.bincount(place, scores, minlength=bins))

    def error(self, first_bin: int = 0) -> float:
        """Return the expected calibration error: sum of n_b / n |precision_b - mean score_b|.

        As in Guo et al., 2017 (https://arxiv.org/abs/1706.04599), but with detections that are
        right at the IoU threshold of `match_image` in place of classes. 0 is perfect; NaN without
        detections.

        Args:
            first_bin: detections of the bins before do not count.
        """
        hits, misses, scores = (
            column[first_bin:] for column in (self.hits, self.misses, self.scores)
        )
        total = (hits + misses).sum()
        return float(np.abs(hits - scores).sum() / total) if total else float("nan")


def _overlaps(objects: ImageObjects, detections: ImageDetections) -> np.ndarray:
    """Return (n, m) as COCO has them: IoU, or for crowds the share of the detection inside."""
    n, m = len(detections.labels), len(objects.labels)
    if not n or not m:
        return np.zeros((n, m))
    boxes = (np.ascontiguousarray(b, dtype=np.float64) for b in (detections.boxes, objects.boxes))
    overlaps = coco_mask.iou(*boxes, objects.crowds.astype(np.uint8).tolist())
    return np.nan_to_num(overlaps)  # the IoU of two empty boxes is 0 / 0


def _match_greedily(
    matches: np.ndarray, order: np.ndarray, overlaps: np.ndarray, threshold: float
) -> None:
    """Match detections with objects that are still free; `matches` is changed in place.

    Args:
        order: indices of detections, in the order in which they choose.
        overlaps: (n, m), 0 where a detection must not be matched with an object.
    """
    free = ~np.isin(np.arange(overlaps.shape[1]), matches)
    for i in order[(overlaps[order] >= threshold).any(1)]:
        candidates = np.where(free, overlaps[i], 0)
        best = len(free) - 1 - candidates[::-1].argmax()  # of equal ones the last, as COCOeval
        if candidates[best] >= threshold:
            matches[i], free[best] = best, False
