"""The scores of an evaluation as people read them: a line of each kind, or tables."""

from collections.abc import Mapping
from typing import Any

from util.distributed import print_main

from .annotations.store import Annotations
from .coco_eval import STATS, UNCUT, format_stats, format_uncut, print_classes
from .panoptic_eval import ROWS
from .scoring.panoptic import format_quality

KINDS = {"bbox": "boxes", "segm": "masks"}
COLUMNS = ("AP", "AP50", "AP75", "S", "M", "L")  # the first of COCO's 12 numbers


def score_lines(scores: Mapping[str, Any]) -> list[str]:
    """Return a line for boxes, for masks and for panoptic segments, where they were scored.

    "-" stands where there is nothing to find.

    Args:
        scores: as from `engine.evaluate`: under keys of log.txt without "test_".
    """
    lines = []
    for iou_type, name in STATS.items():
        if name in scores:
            numbers = zip(COLUMNS, scores[name], strict=False)
            shown = " ".join(f"{column} {_shown(value)}" for column, value in numbers)
            lines.append(f"{KINDS[iou_type]}  {shown}")
    if "PQ_all" in scores:
        qualities = [
            f"{name} {100 * scores[row][key]:.1f}" if scores[row]["n"] else f"{name} -"
            for name, row, key in (
                ("PQ", "PQ_all", "pq"), ("SQ", "PQ_all", "sq"), ("RQ", "PQ_all", "rq"),
                ("things", "PQ_th", "pq"), ("stuff", "PQ_st", "pq"),
            )
        ]  # fmt: skip
        lines.append(f"panoptic  {' '.join(qualities)}")
    return lines


def _shown(value: float) -> str:
    return "-" if value == -1 else f"{value:.3f}"


def print_tables(row: Mapping[str, Any], annotations: Annotations | None) -> None:
    """Print all scores of a row of log.txt as tables, and those of each class (main process).

    Args:
        annotations: what was scored against.
    """
    for iou_type, name in STATS.items():
        if f"test_{name}" in row:
            print_main(f"IoU metric: {iou_type}\n{format_stats(row[f'test_{name}'])}")
            if f"test_{name}{UNCUT}" in row:
                print_main(format_uncut(row[f"test_{name}{UNCUT}"]))
    print_classes(row, annotations)
    if "test_PQ_all" in row:
        print_main(format_quality({name: row[f"test_{key}"] for key, name in ROWS.items()}))
