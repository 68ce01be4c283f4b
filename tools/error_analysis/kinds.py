"""What is wrong with detections: the kind of each error, who is taken for whom, what scores mean.

The kinds of errors follow the idea of TIDE (Bolya et al., 2020, https://arxiv.org/abs/2008.08115).
The rules of one image, IOU being the least overlap of a hit (0.5) and NEAR that of a near miss:

1. Detections, the surest first, each take the object of their class that they overlap most, among
   those not yet taken and with at least IOU: *correct*. These are COCO's matches.
2. A detection that is left and of which at least IOU lies in a crowd of its class is not counted,
   as in COCO's scoring; crowds themselves are no objects.
3. Detections that are left take an object of any class in the same way: *wrong class*.
4. What is left takes nothing. With at least IOU over an object of its class, which is taken, a
   detection is a *duplicate*; else with at least IOU over another *wrong class*; else with at least
   NEAR over one of its class *poor localisation*; else with at least NEAR over another *class and
   place*; else *background*.
5. An object that is not taken is of the kind poor localisation, or else class and place, if a
   detection of that kind overlaps it most among those not taken; else it is *missed*.

So each detection and each object is of one kind. Rules 3 to 5 see the detections of at least the
threshold alone; rule 1 gives the same for them whether the others are there or not.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

NEAR = 0.1
CORRECT, WRONG_CLASS, POOR_PLACE, BOTH, DUPLICATE, BACKGROUND, MISSED = range(7)
NOT_COUNTED = -1
NOTHING = -1  # in a pair of labels: no object, or no detection


class Kind(NamedTuple):
    name: str
    meaning: str  # {iou} and {near} stand for the least overlaps


KINDS = (
    Kind("correct", "the class is right and the overlap (IoU) at least {iou}"),
    Kind("wrong class", "overlap of at least {iou} with an object of another class"),
    Kind("poor localisation", "the class is right, the overlap between {near} and {iou}"),
    Kind("class and place", "overlap between {near} and {iou}, with objects of other classes only"),
    Kind("duplicate", "class and overlap are right, but another detection has taken the object"),
    Kind("background", "overlap of less than {near} with every object"),
    Kind("missed", "an object that no detection is about"),
)


class Objects(NamedTuple):
    """An image's m objects: boxes (m, 4) as COCO's (x, y, w, h); labels (m,); crowds (m,) bool."""

    boxes: np.ndarray
    labels: np.ndarray
    crowds: np.ndarray


class Found(NamedTuple):
    """An image's n detections: boxes (n, 4) as COCO's (x, y, w, h); labels (n,); scores (n,)."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


@dataclass
class Verdict:
    """Of one image.

    Attributes:
        kinds: (n,) of the detections; NOT_COUNTED below the threshold and in crowds.
        objects: (m,) of the objects; NOT_COUNTED for crowds.
        takes: (n,) the object that a detection of at least the threshold takes, else -1.
        hits: (n,) bool, detections of any score that are correct among all.
        in_crowd: (n,) bool, detections of any score that rule 2 leaves out.
    """

    kinds: np.ndarray
    objects: np.ndarray
    takes: np.ndarray
    hits: np.ndarray
    in_crowd: np.ndarray


def judge(objects: Objects, found: Found, threshold: float = 0.5, iou: float = 0.5) -> Verdict:
    """The kind of every detection and every object of an image; see the rules above.

    Args:
        threshold: least score of the detections that get a kind.
        iou: least overlap of a hit, above NEAR.
    """
    single = ~objects.crowds
    same = found.labels[:, None] == objects.labels
    overlaps = _overlaps(objects, found)
    overlap = np.where(single, overlaps, 0)
    order = np.argsort(-found.scores, kind="stable")

    takes = np.full(len(order), -1)
    _take(takes, order, np.where(same, overlap, 0), iou)
    hits = takes >= 0
    in_crowd = ~hits & (same & ~single & (overlaps >= iou)).any(1)
    shown = (found.scores >= threshold) & ~in_crowd
    takes[~shown] = -1
    _take(takes, order[(shown & ~hits)[order]], overlap, iou)
    kinds = np.select([~shown, hits, takes >= 0], [NOT_COUNTED, CORRECT, WRONG_CLASS], BACKGROUND)

    of_objects = np.where(single, MISSED, NOT_COUNTED)
    taken = takes >= 0
    of_objects[takes[taken]] = kinds[taken]
    free = of_objects == MISSED
    for i in np.flatnonzero(kinds == BACKGROUND):
        over, near = overlap[i] >= iou, overlap[i] >= NEAR
        if over.any():
            kinds[i] = DUPLICATE if (over & same[i]).any() else WRONG_CLASS
        elif near.any():
            kinds[i] = POOR_PLACE if (near & same[i]).any() else BOTH
            about = near & free & (same[i] | (kinds[i] == BOTH))
            if about.any():
                best = np.where(about, overlap[i], 0).argmax()
                of_objects[best] = min(of_objects[best], kinds[i])
    return Verdict(kinds, of_objects, takes, hits, in_crowd)


def pairs(objects: Objects, found: Found, verdict: Verdict) -> np.ndarray:
    """Entries of a confusion matrix: (p, 2) labels of an object and of the detection that takes it.

    NOTHING stands for the object of a detection that takes none, as duplicates and near misses, and
    for the detection of an object that none takes. Each object and each detection that is counted
    is in one pair.
    """
    counted = verdict.kinds != NOT_COUNTED
    taken = verdict.takes[counted]
    truth = np.append(objects.labels, NOTHING)[taken]  # taking -1 is taking nothing
    left = (verdict.objects != NOT_COUNTED) & ~np.isin(np.arange(len(objects.labels)), taken)
    alone = objects.labels[left]
    return np.concatenate(
        [
            np.stack([truth, found.labels[counted]], 1),
            np.stack([alone, np.full_like(alone, NOTHING)], 1),
        ]
    ).astype(np.int64)


def weight(found: Found, verdict: Verdict) -> float:
    """How bad an image is: the sum of its false detections' scores, plus 1 a missed object."""
    false = verdict.kinds > CORRECT
    return float(found.scores[false].sum() + (verdict.objects == MISSED).sum())


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
        """Of detections with scores (n,) of which hits (n,) bool are right."""
        place = np.minimum((scores.astype(np.float64) * bins).astype(np.int64), bins - 1)
        right = np.bincount(place[hits], minlength=bins)
        wrong = np.bincount(place[~hits], minlength=bins)
        return cls(right, wrong, np.bincount(place, scores, minlength=bins))

    def error(self, least_bin: int = 0) -> float:
        """The expected calibration error: sum over bins of n_b / n |precision_b - mean score_b|.

        As Guo et al., 2017 (https://arxiv.org/abs/1706.04599), with a detection's being right at
        the overlap given to `judge` in place of a class's. 0 is perfect; NaN without detections.

        Args:
            least_bin: detections of the bins before do not count.
        """
        hits, misses, scores = (
            column[least_bin:] for column in (self.hits, self.misses, self.scores)
        )
        total = (hits + misses).sum()
        return float(np.abs(hits - scores).sum() / total) if total else float("nan")


def _overlaps(objects: Objects, found: Found) -> np.ndarray:
    """(n, m) as COCO has them: IoU, or with crowds the share of the detection inside."""
    n, m = len(found.labels), len(objects.labels)
    if not n or not m:
        return np.zeros((n, m))
    boxes = (np.ascontiguousarray(b, dtype=np.float64) for b in (found.boxes, objects.boxes))
    overlaps = coco_mask.iou(*boxes, objects.crowds.astype(np.uint8).tolist())
    return np.nan_to_num(overlaps)  # two empty boxes


def _take(takes: np.ndarray, order: np.ndarray, overlaps: np.ndarray, least: float) -> None:
    """Let detections take free objects; `takes` is changed in place.

    Args:
        order: detections, who comes first.
        overlaps: (n, m), 0 where a detection may not take an object.
    """
    free = ~np.isin(np.arange(overlaps.shape[1]), takes)
    for i in order[(overlaps[order] >= least).any(1)]:
        open_to_it = np.where(free, overlaps[i], 0)
        best = len(free) - 1 - open_to_it[::-1].argmax()  # of equal ones the last, as COCO's
        if open_to_it[best] >= least:
            takes[i], free[best] = best, False
