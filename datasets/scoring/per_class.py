"""Average precision of each class, from the arrays of COCO's evaluation."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from pycocotools.cocoeval import COCOeval

from datasets.annotations.store import AnnotatedImages

DIGITS = 6  # of logged numbers


class ClassScore(NamedTuple):
    """The scores of a class, a row of the table.

    Attributes:
        name: of the class.
        objects: number of ground-truth objects; crowds do not count.
        ap: mean over the IoU thresholds 0.50:0.95, as COCO's; -1 here and below without objects.
        ap50: at the IoU threshold 0.50.
        small, medium, large: as ap, for objects in COCO's ranges of areas.
    """

    name: str
    objects: int
    ap: float
    ap50: float
    small: float
    medium: float
    large: float


def per_class(evaluated: COCOeval, categories: list[dict]) -> list[ClassScore]:
    """Return the scores of each class in order of category ids.

    Args:
        evaluated: an accumulated evaluation: a value of `CocoEvaluator.coco_eval`, or what
            `datasets.scoring.coco.score` returns.
        categories: the annotation file's, dicts with id and name.
    """
    precision = evaluated.eval["precision"][..., -1]  # (T, R, K, A), for the largest maxDets
    params = evaluated.params
    area = {label: place for place, label in enumerate(params.areaRngLbl)}
    half = np.isclose(params.iouThrs, 0.5)
    truth = evaluated.cocoGt.dataset["annotations"]
    objects = Counter(a["category_id"] for a in truth if not a.get("iscrowd", 0))
    names = class_names(categories)
    # For a class and a range of areas all values are -1 or none is, so they can be averaged.
    return [
        ClassScore(
            names[category],
            objects[category],
            _mean(precision[:, :, k, area["all"]]),
            _mean(precision[half, :, k, area["all"]]),
            *(_mean(precision[:, :, k, area[size]]) for size in ("small", "medium", "large")),
        )
        for k, category in enumerate(params.catIds)
    ]


def class_names(categories: list[dict]) -> dict[int, str]:
    """Return names by category id; a name of several classes is followed by the id."""
    times = Counter(category["name"] for category in categories)
    return {
        c["id"]: c["name"] if times[c["name"]] == 1 else f"{c['name']} ({c['id']})"
        for c in categories
    }


def to_log(rows: Iterable[ClassScore]) -> dict[str, list[float]]:
    """Return the scores as log.txt holds them: {name: [ap, ap50, small, medium, large]}."""
    return {row.name: [round(value, DIGITS) for value in row[2:]] for row in rows}


def from_log(logged: dict[str, list[float]], annotations: AnnotatedImages) -> list[ClassScore]:
    """Return the rows that `to_log` was given.

    Args:
        annotations: what was scored against, for the numbers of objects.
    """
    ids, counts = np.unique(annotations.labels[~annotations.crowds], return_counts=True)
    names = class_names(annotations.categories)
    objects = {names.get(i): count for i, count in zip(ids.tolist(), counts.tolist(), strict=True)}
    return [ClassScore(name, objects.get(name, 0), *values) for name, values in logged.items()]


def format_classes(rows: list[ClassScore]) -> str:
    """Format the rows as a table, with "-" where there are no objects."""
    width = max((len(row.name) for row in rows), default=0)
    width = max(width, len("class"))
    heads = ("objects", "AP", "AP50", "small", "medium", "large")
    lines = [f" {'class':<{width}}" + "".join(f"{head:>9}" for head in heads)]
    for row in rows:
        values = ["-" if value < 0 else f"{value:.3f}" for value in row[2:]]
        cells = "".join(f"{cell:>9}" for cell in (row.objects, *values))
        lines.append(f" {row.name:<{width}}{cells}")
    return "\n".join(lines)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else -1.0
