"""Rows of log.txt as numbers with a name each."""

from collections.abc import Iterable
from typing import Any

# COCO's 12 numbers in their order; log.txt has them as a list.
COCO_NUMBERS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip


def flat(row: dict) -> dict[str, int | float]:
    """The numbers of a row: "test_coco_eval_bbox": [...] becomes "test_coco_eval_bbox_AP", ...,
    "test_PQ_all": {"pq": ...} becomes "test_PQ_all_pq", ...; other lists and dicts are left out,
    such as the numbers of each class.
    """
    numbers: dict[str, int | float] = {}
    for name, value in row.items():
        if isinstance(value, list) and len(value) == len(COCO_NUMBERS):
            value = dict(zip(COCO_NUMBERS, value))
        if _is_number(value):
            numbers[name] = value
        elif isinstance(value, dict) and all(map(_is_number, value.values())):
            numbers |= {f"{name}_{key}": number for key, number in value.items()}
    return numbers


def columns(rows: Iterable[dict]) -> list[str]:
    """All names in the rows, "epoch" first, each other where it came up first."""
    return list(dict.fromkeys(("epoch", *(name for row in rows for name in row))))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
