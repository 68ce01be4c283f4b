"""COCO's average precision, by pycocotools or faster-coco-eval; they agree to 1e-12."""

import contextlib
import io
import warnings
from datetime import datetime

import faster_coco_eval
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .detections import Detections

MAX_DETECTIONS = 100  # of a class in an image, those with the best scores, that COCO counts


def score(
    scorer: str,
    truth: dict,
    detections: Detections,
    iou_type: str = "bbox",
    max_detections: int = MAX_DETECTIONS,
) -> COCOeval:
    """Compare detections with annotations.

    Args:
        scorer: "faster" for faster-coco-eval, or "pycocotools".
        truth: the content of an instances_*.json file; its annotations get the key "ignore".
        detections: equal scores are ranked by image id, within an image by the order given.
        iou_type: what is compared, "bbox" or "segm"; for masks both sides have "segmentation".
        max_detections: of a class in an image that count; `summarize` needs COCO's own number.

    Returns:
        pycocotools' evaluator, accumulated, ready for `summarize`. Its `eval` has the keys params,
        counts, date, precision (10, 101, K, 4, 3), recall (10, K, 4, 3) and scores, as precision;
        K is the number of categories. It has no `evalImgs` with scorer "faster".
    """
    results = {**truth, "annotations": detections.annotations(iou_type)}
    with contextlib.redirect_stdout(io.StringIO()):  # both packages print each of their steps
        coco_eval = COCOeval(_index(COCO(), truth), _index(COCO(), results), iou_type)
        params = coco_eval.params
        params.maxDets = [1, 10, max_detections]
        # faster-coco-eval needs at least one category and image.
        if scorer == "pycocotools" or not params.catIds or not params.imgIds:
            coco_eval.evaluate()
            coco_eval.accumulate()
        else:
            evaluated = _evaluate_faster(truth, results, iou_type, params.maxDets)
            coco_eval.eval = {
                "params": params,
                "counts": list(evaluated["precision"].shape),
                "date": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
                **{name: evaluated[name] for name in ("precision", "recall", "scores")},
            }
    return coco_eval


def average_precision(evaluated: COCOeval) -> float:
    """Return AP over all IoU thresholds and areas, by as many detections as were counted.

    -1 if there was nothing to find.
    """
    precision = evaluated.eval["precision"][..., 0, -1]
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0


def _index(coco: COCO, dataset: dict) -> COCO:
    """Fill an empty COCO object of either package."""
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _evaluate_faster(truth: dict, results: dict, iou_type: str, max_dets: list[int]) -> dict:
    with warnings.catch_warnings():
        # "Annotation id 0 ...": an object of that id is never found. Nor is it by pycocotools.
        warnings.simplefilter("ignore", UserWarning)
        evaluator = faster_coco_eval.COCOeval_faster(
            _index(faster_coco_eval.COCO(), _without_negative_ids(truth)),
            _index(faster_coco_eval.COCO(), results),
            iou_type,
        )
    evaluator.params.maxDets = max_dets
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval


def _without_negative_ids(truth: dict) -> dict:
    """Give annotations positive ids for negative ones, which faster-coco-eval takes for 0."""
    ids = [annotation["id"] for annotation in truth["annotations"]]
    if min(ids, default=0) >= 0:
        return truth
    top = max(0, *ids)
    annotations = [
        {**annotation, "id": i if i >= 0 else top - i}
        for annotation, i in zip(truth["annotations"], ids, strict=True)
    ]
    return {**truth, "annotations": annotations}
