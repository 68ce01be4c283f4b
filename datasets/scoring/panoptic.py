"""Panoptic quality by the rules of COCO's panoptic task.

All areas are counted from the maps: the areas in COCO's annotation files are the same numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from datasets.masks import VOID

UNDEFINED = -1.0  # without segments, as in COCO's average precision


@dataclass(frozen=True)
class ImageMatches:
    """The matches of one image, small enough to be sent between processes.

    Attributes:
        matched: (n,) int64, category ids of the true positives, by their truth segments' ids.
        ious: (n,) float64, IoUs of the true positives.
        extra: (m,) int64, category ids of the false positives.
        missed: (k,) int64, category ids of the false negatives.
    """

    matched: np.ndarray
    ious: np.ndarray
    extra: np.ndarray
    missed: np.ndarray


def compare(
    truth_ids: np.ndarray,
    truth_segments: list[dict],
    found_ids: np.ndarray,
    found_segments: list[dict],
) -> ImageMatches:
    """Match the segments that were found on one image with the true ones.

    A found and a true segment of one category match when their IoU is above 0.5; void pixels of
    the found one are not part of the union. Crowds match nothing and are never missed. A found
    segment without a match is ignored if more than half of it lies on void or on crowds of its
    category.

    Args:
        truth_ids: (H, W) integers, VOID where there is no segment.
        truth_segments: dicts with id, category_id and iscrowd.
        found_ids: (H, W) as truth_ids.
        found_segments: dicts with id and category_id.

    Raises:
        ValueError: maps of different shapes, an id on a map that is not in its list, an id twice
            or not above 0 in a list, or a found segment without a pixel.
    """
    if truth_ids.shape != found_ids.shape:
        raise ValueError(f"maps of different shapes: {truth_ids.shape} and {found_ids.shape}")
    truth, truth_category, crowd = _columns(truth_segments, "id", "category_id", "iscrowd")
    found, found_category = _columns(found_segments, "id", "category_id")
    pixels = _shared_pixels(truth_ids, truth, found_ids, found)
    truth_area, found_area = pixels.sum(1)[1:, None], pixels.sum(0)[1:]
    on_void, shared = pixels[0, 1:], pixels[1:, 1:]
    if not found_area.all():
        raise ValueError(f"found segment {found[found_area == 0][0]} has no pixel")

    union = truth_area + found_area - shared - on_void
    same = truth_category[:, None] == found_category
    crowd = crowd[:, None] == 1
    match = same & ~crowd & (2 * shared > union)
    ignored = 2 * (on_void + (shared * (same & crowd)).sum(0)) > found_area
    return ImageMatches(
        matched=truth_category[match.nonzero()[0]],
        ious=shared[match] / union[match],
        extra=found_category[~match.any(0) & ~ignored],
        missed=truth_category[~match.any(1) & ~crowd[:, 0]],
    )


def panoptic_quality(
    images: Iterable[ImageMatches], categories: list[dict]
) -> tuple[dict[str, dict], dict[int, dict]]:
    """Return the quality over a data set.

    Sums are made in the order of `images`. Segments of other categories do not count.

    Args:
        categories: dicts with id and isthing.

    Returns:
        By row, "All", "Things" and "Stuff", the means {"pq", "sq", "rq", "n"} over the n categories
        that have segments; and by category id {"pq", "sq", "rq", "tp", "fp", "fn"}. Means of
        nothing are UNDEFINED.
    """
    images = list(images)
    ids = np.array(sorted(category["id"] for category in categories), np.int64)
    matched = [image.matched for image in images]
    columns = (
        _by_category(ids, matched, [image.ious for image in images]),
        _by_category(ids, matched),
        _by_category(ids, [image.extra for image in images]),
        _by_category(ids, [image.missed for image in images]),
    )
    by_category = {
        category: _quality(*counts)
        for category, *counts in zip(ids.tolist(), *columns, strict=True)
    }
    rows = {
        name: _mean([by_category[c["id"]] for c in categories if bool(c["isthing"]) in kinds])
        for name, kinds in (("All", (True, False)), ("Things", (True,)), ("Stuff", (False,)))
    }
    return rows, by_category


def format_quality(rows: dict[str, dict]) -> str:
    """Format the rows of `panoptic_quality` as a table, in percent."""
    lines = [f"{'':<10}|{'PQ':>6}{'SQ':>7}{'RQ':>7}{'N':>6}", "-" * 37]
    for name, row in rows.items():
        values = [f"{100 * row[key]:.1f}" if row["n"] else "-" for key in ("pq", "sq", "rq")]
        lines.append("{:<10}|{:>6}{:>7}{:>7}{:>6}".format(name, *values, row["n"]))
    return "\n".join(lines)


def _columns(segments: list[dict], *names: str) -> np.ndarray:
    """Return values of segments, (names, segments) int64, in order of ids."""
    rows = sorted([int(segment[name]) for name in names] for segment in segments)
    return np.array(rows, np.int64).reshape(-1, len(names)).T


def _shared_pixels(
    truth_ids: np.ndarray, truth: np.ndarray, found_ids: np.ndarray, found: np.ndarray
) -> np.ndarray:
    """Count the pixels that each two segments share, (1 + t, 1 + f) int64; void comes first.

    Args:
        truth: (t,) ids in ascending order.
        found: (f,) ids in ascending order.
    """
    truth_ids, found_ids = truth_ids.ravel(), found_ids.ravel()
    # Only one pixel of each run of equal ones is looked up, which is many times as fast.
    changes = (truth_ids[1:] != truth_ids[:-1]) | (found_ids[1:] != found_ids[:-1])
    starts = np.flatnonzero(np.concatenate([[True], changes]))
    lengths = np.diff(starts, append=truth_ids.size)
    rows = _indices(truth_ids[starts], truth, "truth")
    columns = _indices(found_ids[starts], found, "found")
    shape = 1 + len(truth), 1 + len(found)
    cells = np.ravel_multi_index((rows, columns), shape)
    pixels = np.bincount(cells, weights=lengths, minlength=shape[0] * shape[1])
    return pixels.astype(np.int64).reshape(shape)


def _indices(ids: np.ndarray, listed: np.ndarray, whose: str) -> np.ndarray:
    """Return the indices of `ids` in the list, counted from 1; VOID is 0."""
    listed = np.concatenate([[VOID], listed])
    if (np.diff(listed) <= 0).any():
        raise ValueError(f"{whose} segments need different ids above 0, not {listed[1:].tolist()}")
    indices = np.searchsorted(listed, ids).clip(max=len(listed) - 1)
    unlisted = ids[listed[indices] != ids]
    if len(unlisted):
        raise ValueError(f"the {whose} map has id {unlisted[0]}, which no segment has")
    return indices


def _by_category(
    ids: np.ndarray, found: list[np.ndarray], weights: list[np.ndarray] | None = None
) -> list:
    """Count how often each of the ids (in ascending order) was found, or sum the weights."""
    found = np.concatenate([np.zeros(0, np.int64), *found])
    listed = np.isin(found, ids)
    if weights is not None:
        weights = np.concatenate([np.zeros(0), *weights])[listed]
    indices = np.searchsorted(ids, found[listed])
    return np.bincount(indices, weights, minlength=len(ids)).tolist()


def _quality(iou_sum: float, tp: int, fp: int, fn: int) -> dict:
    """Return the quality of one category."""
    pq = sq = rq = UNDEFINED
    if tp + fp + fn:
        segments = tp + fp / 2 + fn / 2
        pq, sq, rq = iou_sum / segments, iou_sum / tp if tp else 0.0, tp / segments
    return {"pq": pq, "sq": sq, "rq": rq, "tp": tp, "fp": fp, "fn": fn}


def _mean(categories: list[dict]) -> dict:
    """Average over the categories that have segments."""
    counted = [c for c in categories if c["tp"] + c["fp"] + c["fn"]]
    means = {
        key: sum(c[key] for c in counted) / len(counted) if counted else UNDEFINED
        for key in ("pq", "sq", "rq")
    }
    return {**means, "n": len(counted)}
