"""The errors of a whole split, counted."""

from collections import Counter, defaultdict

import numpy as np

from datasets.annotations.store import Annotations
from datasets.scoring.detections import Detections
from datasets.scoring.per_class import class_names

from .kinds import (
    KINDS,
    NOT_COUNTED,
    NOTHING,
    Calibration,
    Found,
    Objects,
    Verdict,
    judge,
    pairs,
    weight,
)


class ErrorSummary:
    """What is right and wrong on all images of a split.

    Args:
        annotations: of the split.
        found: all detections, by image.
        names: by label, of classes that the annotations do not name.
        threshold, iou: see `tools.error_analysis.kinds.judge`.

    Attributes:
        kinds: (len(KINDS), 2) int64, numbers of detections and of objects.
        counts: by pair of labels (see `tools.error_analysis.kinds.pairs`), how often there is one.
        images: by pair of labels, indices of the images that have one.
        weights: (I,) float64, how bad each image is.
        calibration: of detections of any score.
        names: of all classes, by label, in order of labels; each is another.
    """

    def __init__(
        self,
        annotations: Annotations,
        found: Detections,
        names: dict[int, str],
        threshold: float = 0.5,
        iou: float = 0.5,
    ):
        self.annotations, self.detections = annotations, found
        self.threshold, self.iou = threshold, iou
        self._starts = np.searchsorted(found.image_ids, annotations.image_ids)
        self._ends = np.searchsorted(found.image_ids, annotations.image_ids, side="right")
        self.kinds = np.zeros((len(KINDS), 2), np.int64)
        self.counts: Counter[tuple[int, int]] = Counter()
        self.images: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.weights = np.zeros(len(annotations))
        scores, hits = [np.zeros(0)], [np.zeros(0, bool)]
        for index in range(len(annotations)):
            objects, here, verdict = self.judged(index)
            of_image = Counter(map(tuple, pairs(objects, here, verdict).tolist()))
            self.counts.update(of_image)
            for pair in of_image:
                self.images[pair].append(index)
            for column, kinds in enumerate((verdict.kinds, verdict.objects)):
                counted = kinds[kinds != NOT_COUNTED]
                self.kinds[:, column] += np.bincount(counted, minlength=len(KINDS))
            self.weights[index] = weight(here, verdict)
            scores.append(here.scores[~verdict.in_crowd])
            hits.append(verdict.hits[~verdict.in_crowd])
        self.calibration = Calibration.of(np.concatenate(scores), np.concatenate(hits))
        labels = {label for pair in self.counts for label in pair} - {NOTHING}
        others = [{"id": i, "name": names.get(i, f"class {i}")} for i in sorted(labels)]
        known = {category["id"] for category in annotations.categories}
        others = [other for other in others if other["id"] not in known]
        self.names = dict(sorted(class_names([*annotations.categories, *others]).items()))

    def annotation_numbers(self, index: int) -> np.ndarray:
        """Of all annotations of an image, crowds, too, as `judged` has them."""
        return np.arange(*self.annotations.starts[index : index + 2])

    def detection_numbers(self, index: int) -> np.ndarray:
        """Of all detections on an image, as `judged` has them."""
        return np.arange(self._starts[index], self._ends[index])

    def judged(self, index: int) -> tuple[Objects, Found, Verdict]:
        """An image's objects, the detections on it, and what is said of both."""
        known, here = self.annotations, self.annotation_numbers(index)
        objects = Objects(known.boxes[here], known.labels[here], known.crowds[here])
        here = self.detection_numbers(index)
        all_found = self.detections
        found = Found(all_found.boxes[here], all_found.labels[here], all_found.scores[here])
        return objects, found, judge(objects, found, self.threshold, self.iou)

    def precision(self, label: int | None = None) -> float | None:
        """Of the class, or of all: the share of detections that are right; None without any."""
        return self._share(label, 1)

    def recall(self, label: int | None = None) -> float | None:
        """Of the class, or of all: the share of objects that are found; None without any."""
        return self._share(label, 0)

    def _share(self, label: int | None, side: int) -> float | None:
        right = whole = 0
        for pair, count in self.counts.items():
            if pair[side] == NOTHING or label not in (None, pair[side]):
                continue
            whole += count
            right += count * (pair[0] == pair[1])
        return right / whole if whole else None

    def worst(self, most: int) -> list[int]:
        """Indices of the images with the largest weights, falling; equal ones by their ids."""
        return np.argsort(-self.weights, kind="stable")[:most].tolist()
