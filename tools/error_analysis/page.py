"""The page of tools/error_report.py, whose scripts in assets/ read plain values."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from datasets.coco_eval import CocoEvaluator, format_stats
from datasets.images import ImageReader
from datasets.masks import decode_mask
from datasets.orientation import read_as_annotated
from tools.error_analysis.error_types import (
    BACKGROUND,
    DUPLICATE,
    ERROR_TYPES,
    MISSED,
    NEAR,
    NO_MATCH,
    NOT_COUNTED,
    WRONG_CLASS,
    ImageDetections,
    ImageObjects,
)
from tools.error_analysis.pictures import image_url, masks_url
from tools.error_analysis.score_curves import ScoreCurve
from tools.error_analysis.summary import ErrorSummary
from tools.html_page.frame import render_page
from tools.image_files.low_scores import BEST_SHOWN

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("charts.js", "curves.js", "page.js", "images.js")
TABLES = {"bbox": "boxes", "segm": "masks"}
COLOURS = ("#1b9e4b", "#e8590c", "#b98900", "#8d5524", "#7048e8", "#d6219c", "#e01b1b")
CROWD_COLOUR = "#6b7280"
# Types that only detections or only objects can have.
ONE_SIDED = {DUPLICATE: "detections", BACKGROUND: "detections", MISSED: "objects"}
COLUMNS = (
    "class", "objects", "AP", "AP50", "small", "medium", "large", "precision", "recall",
)  # fmt: skip


def error_page(
    title: str,
    facts: dict[str, str],
    summary: ErrorSummary,
    evaluator: CocoEvaluator,
    reader: ImageReader,
    images: Iterable[int],
) -> str:
    """Return the HTML page of a detector's errors.

    Args:
        title: of the browser's window.
        facts: where the numbers come from, by name.
        evaluator: of the same detections, after `summarize`.
        reader: of the split's images.
        images: indices of those to show.
    """
    data = page_data(facts, summary, evaluator)
    data["cards"] = [image_card(summary, index, reader) for index in images]
    return render_page(ASSETS, title, data, SCRIPTS)


def page_data(
    facts: dict[str, str], summary: ErrorSummary, evaluator: CocoEvaluator
) -> dict[str, Any]:
    """Return all data of the page but the images."""
    place = _class_places(summary)
    calibration = vars(summary.calibration)
    return {
        "facts": list(facts.items()),
        "tiles": tiles(summary, evaluator.stats),
        "tables": [(TABLES[kind], format_stats(row)) for kind, row in evaluator.stats.items()],
        "names": list(summary.names.values()),
        "kinds": error_types(summary),
        "uncounted": {"name": "not counted, as crowds are", "colour": CROWD_COLOUR},
        "columns": COLUMNS,
        "classes": [
            [*row, summary.precision(label), summary.recall(label)]
            for label, row in zip(
                evaluator.coco_eval["bbox"].params.catIds, evaluator.by_class["bbox"], strict=True
            )
        ],
        "confusion": [
            (place[truth], place[found], count, summary.pair_images[truth, found])
            for (truth, found), count in sorted(summary.pair_counts.items())
        ],
        "files": [summary.annotations.file_name(i) for i in range(len(summary.annotations))],
        "calibration": {name: column.tolist() for name, column in calibration.items()},
        "curves": [curve_data(summary.curve(label)) for label in (None, *summary.names)],
        "notes": notes(summary),
    }


def _class_places(summary: ErrorSummary) -> dict[int, int]:
    """Return the page's numbers of classes by label; NO_MATCH comes last."""
    return {label: place for place, label in enumerate([*summary.names, NO_MATCH])}


def tiles(summary: ErrorSummary, stats: dict[str, list[float]]) -> list[tuple[str, float | None]]:
    """Return the numbers on top of the page."""
    named = list(zip(("AP", "AP50", "AP75"), stats["bbox"], strict=False))
    if "segm" in stats:
        named.append(("AP of masks", stats["segm"][0]))
    threshold, error = f"{summary.threshold:g}", summary.calibration.error(1)
    return [
        *named,
        (f"precision at {threshold}", summary.precision()),
        (f"recall at {threshold}", summary.recall()),
        ("calibration error", None if math.isnan(error) else error),
    ]


def error_types(summary: ErrorSummary) -> list[dict[str, Any]]:
    rows = zip(ERROR_TYPES, COLOURS, summary.type_counts.tolist(), strict=True)
    return [
        {
            "name": error.name,
            "meaning": error.meaning.format(iou=f"{summary.iou:g}", near=f"{NEAR:g}"),
            "colour": colour,
            "of": ONE_SIDED.get(number, "both"),
            "detections": detections,
            "objects": objects,
        }
        for number, (error, colour, (detections, objects)) in enumerate(rows)
    ]


def curve_data(curve: ScoreCurve | None) -> dict[str, Any] | None:
    """Return the points of a curve, and the best of them with its threshold."""
    if curve is None:
        return None
    places = curve.points()
    columns = (curve.scores, curve.precision, curve.recall, curve.f1)
    return {
        "points": [[round(float(column[i]), 4) for column in columns] for i in places],
        "best": places.index(curve.best),
        "threshold": curve.best_threshold(),
    }


def notes(summary: ErrorSummary) -> dict[str, str]:
    errors = [summary.calibration.error(least) for least in (0, 1)]
    shown = ["undefined" if math.isnan(error) else f"{error:.3f}" for error in errors]
    dashed = f" No score reaches {summary.threshold:g}: the best {BEST_SHOWN} are dashed."
    return {
        "kinds": "Each detection and each object has one kind; an object that is not found "
        "has that of the detection nearest to it. Only detections with a score of at least "
        f"{summary.threshold:g} count; annotated crowds are ignored. Click on a kind to see its "
        "images.",
        "scores": "The expected calibration error (mean difference of score and share of right "
        f"detections, over bins of 0.1, weighted by their numbers) is {shown[0]}, and {shown[1]} "
        "without the lowest bin, which has most detections and hides the others. 0 is perfect.",
        "curves": "Precision and recall if only detections with at least a score count; right is "
        f"an IoU of at least {summary.iou:g}. The mark is the threshold with the highest F1, the "
        "harmonic mean of both. Over all classes, each detection counts the same.",
        "images": "Sorted by the sum of the scores of false detections plus 1 for each missed "
        f"object. Click on an image to enlarge it.{dashed if summary.nothing_found else ''}",
    }


def image_card(summary: ErrorSummary, index: int, reader: ImageReader) -> dict[str, Any]:
    """Return an image with its boxes, and with masks where there are some."""
    known = summary.annotations
    objects, found, errors = summary.image_errors(index)
    place = _class_places(summary)

    def boxes(
        side: ImageObjects | ImageDetections, types: np.ndarray, indices: np.ndarray
    ) -> list[dict]:
        return [
            {
                "box": [round(value, 1) for value in side.boxes[i].tolist()],
                "class": place[int(side.labels[i])],
                "kind": int(types[i]),
            }
            for i in indices
        ]

    in_crowd = errors.in_crowd & (found.scores >= summary.threshold)
    shown = np.flatnonzero((errors.detection_types != NOT_COUNTED) | in_crowd)
    if summary.nothing_found:
        shown = np.argsort(-found.scores, kind="stable")[:BEST_SHOWN]
    sides = {
        "truth": boxes(objects, errors.object_types, np.arange(len(objects.labels))),
        "found": boxes(found, errors.detection_types, shown),
    }
    for entry, i in zip(sides["found"], shown, strict=True):
        entry["score"] = round(float(found.scores[i]), 4)
        if summary.nothing_found:
            entry["below"] = summary.threshold
        if errors.detection_types[i] == WRONG_CLASS and errors.matches[i] >= 0:
            entry["taken"] = place[int(objects.labels[errors.matches[i]])]

    image = read_as_annotated(known, index, reader)
    content = {
        "image": index,
        "id": int(known.image_ids[index]),
        "weight": round(float(summary.weights[index]), 4),
        "width": image.width,
        "height": image.height,
        "picture": image_url(image),
        **sides,
    }
    if known.segmentations is not None:
        outlines = map(known.segmentation, summary.annotation_indices(index))
        runs = summary.detections.masks[summary.detection_indices(index)[shown]]
        masks = {
            "truth": [decode_mask(outline, image.height, image.width) for outline in outlines],
            "found": list(map(coco_mask.decode, runs)),
        }
        content["masks"] = {
            side: masks_url(masks[side], map(_colour, sides[side]), image.size) for side in masks
        }
    return content


def _colour(entry: dict) -> str:
    return CROWD_COLOUR if entry["kind"] == NOT_COUNTED else COLOURS[entry["kind"]]
