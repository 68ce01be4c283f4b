"""Rows of log.txt as numbers with a name each."""

import contextlib
from collections.abc import Iterable
from itertools import islice
from typing import Any

from util.schema import (
    InvalidValue,
    describe,
    dict_of,
    fields,
    integer,
    list_of,
    number,
    plain_value,
    text,
)

# COCO's 12 numbers in their order; log.txt has them as a list.
COCO_NUMBERS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip

MOST_EPOCHS = 10**6
MOST_ENTRIES = 10_000
MOST_LETTERS = 200  # of a name
EPOCH = integer(0, MOST_EPOCHS)
NUMBER = number(finite=False)  # a mean of nothing is NaN
QUALITY = fields({"pq": NUMBER, "sq": NUMBER, "rq": NUMBER, "n": NUMBER})
# What is drawn and printed of a row; all else has only to be what JSON can say.
SCORES = {
    "test_coco_eval_bbox": list_of(NUMBER, 12, 12),
    "test_coco_eval_masks": list_of(NUMBER, 12, 12),
    "test_coco_eval_bbox_per_class": dict_of(text(1000), list_of(NUMBER, 5, 5), 100_000),
    "test_coco_eval_masks_per_class": dict_of(text(1000), list_of(NUMBER, 5, 5), 100_000),
    "test_PQ_all": QUALITY,
    "test_PQ_th": QUALITY,
    "test_PQ_st": QUALITY,
}  # fmt: skip


def check_row(row: Any, place: str) -> None:
    """Raise an InvalidValue unless this is a row of log.txt: numbers by name.

    Args:
        place: what to call it in the message.
    """
    dict_of(text(MOST_LETTERS), plain_value(3), MOST_ENTRIES)(row, place)
    fields({"epoch": EPOCH}, SCORES)(row, place)
    for name, value in row.items():
        if name.startswith(("train_", "test_")) and isinstance(value, str | None):
            raise InvalidValue(f"{place}[{describe(name)}] is {describe(value)}, not a number")


def fitting(row: dict) -> dict:
    """The entries of a row with an epoch that may be in one."""
    kept = {"epoch": row["epoch"]}
    for name, value in islice(row.items(), MOST_ENTRIES):
        with contextlib.suppress(InvalidValue):
            check_row({"epoch": 0, name: value}, "")
            kept[name] = value
    return {name: kept[name] for name in row if name in kept}


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
