"""Two implementations of COCO's average precision, with the same results to the last bit."""

import contextlib
import io
import warnings
from datetime import datetime

import faster_coco_eval
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .detections import Detections

SCORERS = ("faster", "pycocotools")


def score(scorer: str, truth: dict, detections: Detections, iou_type: str = "bbox") -> COCOeval:
    """Compare detections with annotations.

    Args:
        scorer: "faster" for faster-coco-eval, or "pycocotools".
        truth: the content of an instances_*.json file; its annotations get the key "ignore".
        detections: equal scores count in the order they have here within an image, and in that
            of image ids between images.
        iou_type: what is compared, "bbox" or "segm"; for masks both sides have "segmentation".

    Returns:
        pycocotools' evaluator, accumulated, ready for `summarize`. Its `eval` has the keys params,
        counts, date, precision (10, 101, K, 4, 3), recall (10, K, 4, 3) and scores, as precision;
        K is the number of categories. It has no `evalImgs` with scorer "faster".
    """
    found = {**truth, "annotations": detections.annotations(iou_type)}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools announces each of its steps
        coco_eval = COCOeval(_indexed(COCO(), truth), _indexed(COCO(), found), iou_type)
        # Without categories or images there is nothing to be fast at.
        if scorer == "pycocotools" or not coco_eval.params.catIds or not coco_eval.params.imgIds:
            coco_eval.evaluate()
            coco_eval.accumulate()
        else:
            coco_eval.eval = _faster_eval(coco_eval, truth, found)
    return coco_eval


def _indexed(coco: COCO, dataset: dict) -> COCO:
    """`dataset` in a COCO object of either package."""
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _faster_eval(reference: COCOeval, truth: dict, found: dict) -> dict:
    """What `reference` would have in `eval` after evaluate() and accumulate()."""
    params = reference.params
    valid = _valid_objects(reference)
    levels = int(valid.max(initial=1) - 1).bit_length()
    with warnings.catch_warnings():
        # "Annotation id 0 ...": pycocotools, too, takes such an object for one never found.
        warnings.simplefilter("ignore", UserWarning)
        fast = faster_coco_eval.COCOeval_faster(
            _indexed(faster_coco_eval.COCO(), _without_negative_ids(truth)),
            _indexed(faster_coco_eval.COCO(), found),
            params.iouType,
        )
    fast.params.recThrs = np.concatenate([params.recThrs, _probes(levels)])
    fast.evaluate()
    fast.accumulate()
    count = len(params.recThrs)
    precision = np.ascontiguousarray(fast.eval["precision"][:, :count])
    _lower_single_hits(precision, fast.eval["precision"][:, count:], valid)
    return {
        "params": params,
        "counts": list(precision.shape),
        "date": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        "precision": precision,
        "recall": fast.eval["recall"],
        "scores": np.ascontiguousarray(fast.eval["scores"][:, :count]),
    }


def _without_negative_ids(truth: dict) -> dict:
    """faster-coco-eval takes a negative annotation id for 0, for which an object is never found."""
    ids = [annotation["id"] for annotation in truth["annotations"]]
    if min(ids, default=0) >= 0:
        return truth
    top = max(ids)
    renamed = [i if i >= 0 else max(top, 0) - i for i in ids]
    annotations = [
        {**annotation, "id": i} for annotation, i in zip(truth["annotations"], renamed, strict=True)
    ]
    return {**truth, "annotations": annotations}


# pycocotools divides true positives by (positives + 2.2e-16), which faster-coco-eval does not.
# That changes the quotient only where there is one positive: a single hit has precision
# 0.9999999999999998 there, not 1. Later positives hide it where they raise the curve to 1 again,
# as the second one does if it is a hit, too. The curves are only known at recall thresholds, so
# thresholds are added at which to look whether the second hit came before any miss: with n objects
# to find it has recall 2/n, and a power of two lies between 1/n (excluded) and 2/n (included).


def _probes(levels: int) -> np.ndarray:
    """Recall thresholds (levels + 1,): number (n - 1).bit_length() is the one for n objects."""
    return 2.0 ** (1 - np.arange(levels + 1))


def _lower_single_hits(precision: np.ndarray, probed: np.ndarray, valid: np.ndarray) -> None:
    """Make precisions of 1 pycocotools' 0.9999999999999998 where one hit alone has them.

    Args:
        precision: (T, R, K, A, M), changed in place.
        probed: (T, levels + 1, K, A, M), the precision at `_probes`.
        valid: (K, A), from `_valid_objects`.
    """
    single = 1 / (1 + np.spacing(1))
    for k, a in np.ndindex(valid.shape):
        level = int(valid[k, a] - 1).bit_length()
        curves = precision[:, :, k, a]
        lonely = probed[:, level, k, a] != 1  # (T, M)
        curves[(curves == 1) & lonely[:, None]] = single


def _valid_objects(reference: COCOeval) -> np.ndarray:
    """How many objects count, (K, A) by category and range of areas; at least 1."""
    params, truth = reference.params, reference.cocoGt
    annotations = truth.loadAnns(truth.getAnnIds(imgIds=params.imgIds, catIds=params.catIds))
    counted = [a for a in annotations if not a.get("iscrowd", 0)]
    columns = np.searchsorted(params.catIds, [a["category_id"] for a in counted])
    areas = np.array([a["area"] for a in counted], dtype=np.float64)
    counts = [
        np.bincount(columns[(areas >= low) & (areas <= high)], minlength=len(params.catIds))
        for low, high in params.areaRng
    ]
    return np.stack(counts, axis=1).clip(min=1)
