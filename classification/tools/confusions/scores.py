"""Scores of a classifier on labelled images, and what it takes for what."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from classification.classifier import Classifier

from .labelled import Labelled, Prepared


class Scores:
    """What a classifier says of labelled images.

    Args:
        labels: of all images.
        num_classes: of the classifier.

    Attributes:
        seen: (n,) bool, whether an image was read.
        predicted: (n,) int, the most probable class.
        probability: (n,) float, its probability.
        loss: (n,) float, minus the logarithm of the true class's probability.
        in_top5: (n,) bool, whether the true class is among the five most probable.
    """

    def __init__(self, labels: list[int], num_classes: int):
        count = len(labels)
        self.num_classes = num_classes
        self.labels = np.array(labels)
        self.seen, self.in_top5 = np.zeros((2, count), bool)
        self.predicted = np.zeros(count, int)
        self.probability, self.loss = np.zeros((2, count))

    def add(self, places: list[int], logits: Tensor) -> None:
        """Add images: their places among all, and their logits (B, classes)."""
        labels = torch.from_numpy(self.labels[places])
        logits = logits.double()
        top = logits.topk(min(5, self.num_classes)).indices
        self.seen[places] = True
        self.predicted[places] = top[:, 0].numpy()
        self.probability[places] = logits.softmax(-1).amax(-1).numpy()
        self.loss[places] = F.cross_entropy(logits, labels, reduction="none").numpy()
        self.in_top5[places] = (top == labels[:, None]).any(-1).numpy()

    @property
    def right(self) -> np.ndarray:
        return self.seen & (self.predicted == self.labels)

    def confusion(self) -> np.ndarray:
        """Return counts (classes, classes): rows are true classes, columns predicted ones."""
        pairs = self.labels[self.seen] * self.num_classes + self.predicted[self.seen]
        return np.bincount(pairs, minlength=self.num_classes**2).reshape(self.num_classes, -1)

    def worst(self, per_class: int, limit: int) -> list[int]:
        """Return the images of the highest loss, at most `per_class` of each class.

        All, the highest loss first, are at most `limit`.
        """
        left = dict.fromkeys(range(self.num_classes), per_class)
        found: list[int] = []
        for place in np.argsort(-self.loss, kind="stable"):
            label = int(self.labels[place])
            if self.seen[place] and left[label] and len(found) < limit:
                left[label] -= 1
                found.append(int(place))
        return found


def largest_confusions(confusion: np.ndarray, limit: int) -> list[tuple[int, int, int]]:
    """Return the most frequent mistakes, (true class, predicted class, count)."""
    counts = confusion.copy()
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:limit]
    rows, columns = np.unravel_index(order, counts.shape)
    return [
        (int(row), int(column), int(counts[row, column]))
        for row, column in zip(rows, columns)
        if counts[row, column]
    ]


def score(classifier: Classifier, labelled: Labelled, batches: Iterable) -> Scores:
    """Score images that come in batches as from `loader`."""
    scores = Scores(labelled.labels, len(classifier.classes))
    for batch in batches:
        read = [(place, image) for place, image in batch if image is not None]
        if read:
            logits = classifier.compute(torch.stack([image for _, image in read]))
            scores.add([place for place, _ in read], logits)
    return scores


def loader(
    classifier: Classifier, labelled: Labelled, batch_size: int, num_workers: int
) -> DataLoader:
    """Return batches of (place, image or None)."""
    return DataLoader(
        Prepared(labelled, classifier), batch_size, num_workers=num_workers, collate_fn=list
    )
