"""Count the errors of a detector on a whole split."""

from collections import Counter, defaultdict

import numpy as np

from datasets.annotations.store import Annotations
from datasets.scoring.detections import Detections
from datasets.scoring.per_class import class_names

from .error_types import (
    ERROR_TYPES,
    NO_MATCH,
    NOT_COUNTED,
    Calibration,
    ImageDetections,
    ImageErrors,
    ImageObjects,
    confusion_pairs,
    match_image,
)
from .score_curves import ScoreCurve


class ErrorSummary:
    """Numbers of right and wrong detections on all images of a split.

    Args:
        annotations: of the split.
        detections: on all its images, sorted by image.
        names: by label, for classes that the annotations do not name.
        threshold, iou: see `tools.error_analysis.error_types.match_image`.

    Attributes:
        type_counts: (len(ERROR_TYPES), 2) int64, numbers of detections and of objects.
        pair_counts: by pair of labels (see `confusion_pairs`), how often there is one.
        pair_images: by pair of labels, indices of the images that have one.
        weights: (I,) float64, how bad each image is.
        calibration: of detections of any score.
        names: of all classes, by label, in order of labels; no two are equal.
    """

    def __init__(
        self,
        annotations: Annotations,
        detections: Detections,
        names: dict[int, str],
        threshold: float = 0.5,
        iou: float = 0.5,
    ):
        self.annotations, self.detections = annotations, detections
        self.threshold, self.iou = threshold, iou
        self._starts = np.searchsorted(detections.image_ids, annotations.image_ids)
        self._ends = np.searchsorted(detections.image_ids, annotations.image_ids, side="right")
        self.type_counts = np.zeros((len(ERROR_TYPES), 2), np.int64)
        self.pair_counts: Counter[tuple[int, int]] = Counter()
        self.pair_images: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.weights = np.zeros(len(annotations))
        scores, hits, classes = [np.zeros(0)], [np.zeros(0, bool)], [np.zeros(0, np.int64)]
        for index in range(len(annotations)):
            objects, found, errors = self.image_errors(index)
            pairs = Counter(map(tuple, confusion_pairs(objects, found, errors).tolist()))
            self.pair_counts.update(pairs)
            for pair in pairs:
                self.pair_images[pair].append(index)
            for column, types in enumerate((errors.detection_types, errors.object_types)):
                counted = types[types != NOT_COUNTED]
                self.type_counts[:, column] += np.bincount(counted, minlength=len(ERROR_TYPES))
            self.weights[index] = errors.weight(found)
            scores.append(found.scores[~errors.in_crowd])
            hits.append(errors.hits[~errors.in_crowd])
            classes.append(found.labels[~errors.in_crowd])
        self._scores, self._hits, self._classes = map(np.concatenate, (scores, hits, classes))
        self.calibration = Calibration.of(self._scores, self._hits)
        labels = {label for pair in self.pair_counts for label in pair} - {NO_MATCH}
        if self.nothing_found:  # the best ones are shown all the same
            labels |= set(detections.labels.tolist())
        labels -= {category["id"] for category in annotations.categories}
        others = [{"id": i, "name": names.get(i, f"class {i}")} for i in sorted(labels)]
        self.names = dict(sorted(class_names([*annotations.categories, *others]).items()))

    @property
    def nothing_found(self) -> bool:
        """Whether there are detections, and none on any image reaches the threshold."""
        scores = self.detections.scores
        return len(scores) > 0 and not (scores >= self.threshold).any()

    def best_detection(self) -> tuple[float, str, str]:
        """Return the score of the best of at least one detection, its class and its file."""
        best = self.detections.scores.argmax()
        label = int(self.detections.labels[best])
        index = np.searchsorted(self.annotations.image_ids, self.detections.image_ids[best])
        file = self.annotations.file_name(int(index))
        return float(self.detections.scores[best]), self.names[label], file

    def annotation_indices(self, index: int) -> np.ndarray:
        """Return the places of an image's annotations, crowds included, among all."""
        return np.arange(*self.annotations.starts[index : index + 2])

    def detection_indices(self, index: int) -> np.ndarray:
        """Return the places of the detections on an image among all."""
        return np.arange(self._starts[index], self._ends[index])

    def image_errors(self, index: int) -> tuple[ImageObjects, ImageDetections, ImageErrors]:
        """Return an image's objects, the detections on it, and their error types."""
        known, at = self.annotations, self.annotation_indices(index)
        objects = ImageObjects(known.boxes[at], known.labels[at], known.crowds[at])
        found, at = self.detections, self.detection_indices(index)
        detections = ImageDetections(found.boxes[at], found.labels[at], found.scores[at])
        errors = match_image(objects, detections, self.threshold, self.iou)
        return objects, detections, errors

    def precision(self, label: int | None = None) -> float | None:
        """Return the share of detections, of a class or of all, that are right; None if 0 / 0."""
        return self._share(label, 1)

    def recall(self, label: int | None = None) -> float | None:
        """Return the share of objects, of a class or of all, that are found; None if 0 / 0."""
        return self._share(label, 0)

    def curve(self, label: int | None = None) -> ScoreCurve | None:
        """Return the curve of a class or of all; None if no detection is right."""
        objects = self.annotations.labels[~self.annotations.crowds]
        if label is None:
            return ScoreCurve.of(self._scores, self._hits, len(objects))
        chosen = self._classes == label
        count = int((objects == label).sum())
        return ScoreCurve.of(self._scores[chosen], self._hits[chosen], count)

    def _share(self, label: int | None, side: int) -> float | None:
        right = total = 0
        for pair, count in self.pair_counts.items():
            if pair[side] == NO_MATCH or label not in (None, pair[side]):
                continue
            total += count
            right += count * (pair[0] == pair[1])
        return right / total if total else None

    def worst(self, count: int) -> list[int]:
        """Return indices of the images with the largest weights, falling; equal ones by id."""
        return np.argsort(-self.weights, kind="stable")[:count].tolist()
