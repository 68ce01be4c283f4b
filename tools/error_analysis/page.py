"""What the page of tools/error_report.py shows, as plain values, which its scripts read."""

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from datasets.coco_eval import CocoEvaluator, format_stats
from datasets.images import ImageReader
from datasets.masks import decode_mask
from datasets.orientation import read_as_annotated
from tools.error_analysis.kinds import (
    BACKGROUND,
    DUPLICATE,
    KINDS,
    MISSED,
    NEAR,
    NOT_COUNTED,
    NOTHING,
    WRONG_CLASS,
    Found,
    Objects,
)
from tools.error_analysis.summary import ErrorSummary
from tools.html_page import masks_address, picture_address

TABLES = {"bbox": "boxes", "segm": "masks"}
COLOURS = ("#1b9e4b", "#e8590c", "#b98900", "#8d5524", "#7048e8", "#d6219c", "#e01b1b")
COLOUR_OF_CROWDS = "#6b7280"
# Kinds that only detections or only objects are of.
OF_ONE = {DUPLICATE: "detections", BACKGROUND: "detections", MISSED: "objects"}
COLUMNS = (
    "class", "objects", "AP", "AP50", "small", "medium", "large", "precision", "recall",
)  # fmt: skip


def page_data(
    summary: ErrorSummary, evaluator: CocoEvaluator, head: dict[str, str]
) -> dict[str, Any]:
    """All but the images, which are `card`s under "cards".

    Args:
        evaluator: of the same detections, after `summarize`.
        head: where the numbers come from.
    """
    place = _places(summary)
    calibration = vars(summary.calibration)
    return {
        "facts": list(head.items()),
        "tiles": tiles(summary, evaluator.stats),
        "tables": [(TABLES[kind], format_stats(row)) for kind, row in evaluator.stats.items()],
        "names": list(summary.names.values()),
        "kinds": kinds(summary),
        "uncounted": {"name": "not counted, as crowds are", "colour": COLOUR_OF_CROWDS},
        "columns": COLUMNS,
        "classes": [
            [*row, summary.precision(label), summary.recall(label)]
            for label, row in zip(
                evaluator.coco_eval["bbox"].params.catIds, evaluator.by_class["bbox"], strict=True
            )
        ],
        "confusion": [
            (place[truth], place[found], count, summary.images[truth, found])
            for (truth, found), count in sorted(summary.counts.items())
        ],
        "files": [summary.annotations.file_name(i) for i in range(len(summary.annotations))],
        "calibration": {name: column.tolist() for name, column in calibration.items()},
        "notes": notes(summary),
    }


def _places(summary: ErrorSummary) -> dict[int, int]:
    """The page's numbers of classes, by label; NOTHING comes last."""
    return {label: place for place, label in enumerate([*summary.names, NOTHING])}


def tiles(summary: ErrorSummary, stats: dict[str, list[float]]) -> list[tuple[str, float | None]]:
    """Numbers to see first."""
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


def kinds(summary: ErrorSummary) -> list[dict[str, Any]]:
    rows = zip(KINDS, COLOURS, summary.kinds.tolist(), strict=True)
    return [
        {
            "name": kind.name,
            "meaning": kind.meaning.format(iou=f"{summary.iou:g}", near=f"{NEAR:g}"),
            "colour": colour,
            "of": OF_ONE.get(number, "both"),
            "detections": detections,
            "objects": objects,
        }
        for number, (kind, colour, (detections, objects)) in enumerate(rows)
    ]


def notes(summary: ErrorSummary) -> dict[str, str]:
    errors = [summary.calibration.error(least) for least in (0, 1)]
    shown = ["none" if math.isnan(error) else f"{error:.3f}" for error in errors]
    return {
        "kinds": "Each detection and each object is of one kind, an object of that of the "
        f"detection about it. Only detections of at least {summary.threshold:g} count; annotated "
        "crowds are ignored. Click on a kind to see its images.",
        "scores": f"The expected calibration error is {shown[1]} without the lowest bin, in which "
        f"most detections are and which hides the others, and {shown[0]} with it: the mean "
        "difference of score and share of right detections, over bins of 0.1, weighted by their "
        "numbers. 0 is perfect.",
        "images": "Sorted by the sum of the scores of false detections plus 1 for each missed "
        "object. Click on an image to enlarge it.",
    }


def card(summary: ErrorSummary, index: int, reader: ImageReader) -> dict[str, Any]:
    """An image with its boxes, and with masks where there are some."""
    known = summary.annotations
    objects, found, verdict = summary.judged(index)
    place = _places(summary)

    def entries(side: Objects | Found, kinds: np.ndarray, numbers: np.ndarray) -> list[dict]:
        return [
            {
                "box": [round(value, 1) for value in side.boxes[i].tolist()],
                "class": place[int(side.labels[i])],
                "kind": int(kinds[i]),
            }
            for i in numbers
        ]

    in_crowd = verdict.in_crowd & (found.scores >= summary.threshold)
    shown = np.flatnonzero((verdict.kinds != NOT_COUNTED) | in_crowd)
    sides = {
        "truth": entries(objects, verdict.objects, np.arange(len(objects.labels))),
        "found": entries(found, verdict.kinds, shown),
    }
    for entry, i in zip(sides["found"], shown, strict=True):
        entry["score"] = round(float(found.scores[i]), 4)
        if verdict.kinds[i] == WRONG_CLASS and verdict.takes[i] >= 0:
            entry["taken"] = place[int(objects.labels[verdict.takes[i]])]

    image = read_as_annotated(known, index, reader)
    content = {
        "image": index,
        "id": int(known.image_ids[index]),
        "weight": round(float(summary.weights[index]), 4),
        "width": image.width,
        "height": image.height,
        "picture": picture_address(image),
        **sides,
    }
    if known.segmentations is not None:
        outlines = map(known.segmentation, summary.annotation_numbers(index))
        runs = summary.detections.masks[summary.detection_numbers(index)[shown]]
        masks = {
            "truth": [decode_mask(outline, image.height, image.width) for outline in outlines],
            "found": list(map(coco_mask.decode, runs)),
        }
        content["masks"] = {
            side: masks_address(masks[side], map(_colour, sides[side]), image.size)
            for side in masks
        }
    return content


def _colour(entry: dict) -> str:
    return COLOUR_OF_CROWDS if entry["kind"] == NOT_COUNTED else COLOURS[entry["kind"]]
