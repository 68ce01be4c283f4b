"""Make COCO annotations of shapes."""

import numpy as np


def polygon_annotation(points: np.ndarray, category: int) -> dict:
    """Return the annotation, without ids, of an object with the outline points (n, 2)."""
    points = points.round(2)
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    low, size = points.min(0), np.ptp(points, axis=0)
    return {
        "category_id": category,
        "bbox": np.concatenate([low, size]).round(2).tolist(),
        "area": round(float(area), 2),
        "segmentation": [points.reshape(-1).tolist()],
        "iscrowd": 0,
    }


def crowd_annotation(mask: np.ndarray, category: int) -> dict:
    """Return the annotation, without ids, of a crowd with a mask (height, width) bool."""
    # COCO's run lengths go down the columns and begin with zeros.
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    return {
        "category_id": category,
        "bbox": bounds(mask),
        "area": int(mask.sum()),
        "segmentation": {"counts": counts, "size": list(mask.shape)},
        "iscrowd": 1,
    }


def bounds(where: np.ndarray) -> list[int]:
    """Return COCO's box (x, y, w, h) of the pixels of a mask."""
    rows, columns = np.nonzero(where)
    left, top = int(columns.min()), int(rows.min())
    return [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]
