"""Kinds of errors, confusions and calibration, against cases made by hand and COCO's matches."""

import json

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from datasets.annotations.instances import load_annotations
from datasets.scoring.coco import score
from tests.helpers.scoring_cases import as_arrays, random_case
from tools.error_analysis.error_types import (
    BACKGROUND,
    BOTH,
    CORRECT,
    DUPLICATE,
    ERROR_TYPES,
    MISSED,
    NO_MATCH,
    NOT_COUNTED,
    POOR_LOCALISATION,
    WRONG_CLASS,
    Calibration,
    ImageDetections,
    ImageObjects,
    confusion_pairs,
    match_image,
)
from tools.error_analysis.summary import ErrorSummary

DISC, STAR = 1, 2
AT = (10, 10, 20, 20)  # as (x, y, w, h)


def shifted(pixels: int) -> tuple:
    """AT moved to the right; IoU with AT is (20 - pixels) / (20 + pixels)."""
    return (10 + pixels, 10, 20, 20)


def case(objects: list, found: list) -> tuple[ImageObjects, ImageDetections]:
    """Objects as (label, box) or (label, box, crowd), detections as (label, box, score)."""
    labels, boxes, crowds = zip(*((*o, False)[:3] for o in objects)) if objects else ((),) * 3
    truth = ImageObjects(np.array(boxes, float).reshape(-1, 4), np.array(labels, int),
                    np.array(crowds, bool))  # fmt: skip
    labels, boxes, scores = zip(*found, strict=True) if found else ((),) * 3
    return truth, ImageDetections(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, int),
                        np.array(scores, np.float32))  # fmt: skip


CASES = {
    "correct": ([(DISC, AT)], [(DISC, shifted(5), 0.9)], [CORRECT], [CORRECT]),
    "wrong class": ([(DISC, AT)], [(STAR, shifted(5), 0.9)], [WRONG_CLASS], [WRONG_CLASS]),
    "poor localisation": (
        [(DISC, AT)],
        [(DISC, shifted(10), 0.9)],
        [POOR_LOCALISATION],
        [POOR_LOCALISATION],
    ),
    "both": ([(DISC, AT)], [(STAR, shifted(10), 0.9)], [BOTH], [BOTH]),
    "background": ([(DISC, AT)], [(DISC, shifted(18), 0.9)], [BACKGROUND], [MISSED]),
    "missed": ([(DISC, AT)], [], [], [MISSED]),
    "nothing at all": ([], [], [], []),
    "an image without objects": ([], [(DISC, AT, 0.9)], [BACKGROUND], []),
    "below the threshold": ([(DISC, AT)], [(DISC, AT, 0.4)], [NOT_COUNTED], [MISSED]),
    "duplicate, the surer one is right": (
        [(DISC, AT)],
        [(DISC, shifted(1), 0.6), (DISC, shifted(3), 0.9)],
        [DUPLICATE, CORRECT],
        [CORRECT],
    ),
    "the right class comes before a surer wrong one": (
        [(DISC, AT)],
        [(STAR, AT, 0.9), (DISC, shifted(4), 0.6)],
        [WRONG_CLASS, CORRECT],
        [CORRECT],
    ),
    "of two wrong classes one takes the object": (
        [(DISC, AT)],
        [(STAR, AT, 0.6), (3, AT, 0.9)],
        [WRONG_CLASS, WRONG_CLASS],
        [WRONG_CLASS],
    ),
    "a poor place on an object that is found": (
        [(DISC, AT)],
        [(DISC, AT, 0.9), (DISC, shifted(10), 0.8)],
        [CORRECT, POOR_LOCALISATION],
        [CORRECT],
    ),
    "its class says more than its overlap": (
        [(DISC, shifted(14)), (STAR, shifted(10))],
        [(DISC, AT, 0.9)],
        [POOR_LOCALISATION],
        [POOR_LOCALISATION, MISSED],
    ),
    "the best of two objects, then the other": (
        [(DISC, AT), (DISC, shifted(4))],
        [(DISC, shifted(3), 0.9), (DISC, shifted(4), 0.8)],
        [CORRECT, CORRECT],
        [CORRECT, CORRECT],
    ),
    "inside a crowd of its class": (
        [(DISC, (0, 0, 90, 90), True), (DISC, AT)],
        [(DISC, AT, 0.9), (DISC, (50, 50, 9, 9), 0.8), (STAR, (50, 50, 9, 9), 0.8)],
        [CORRECT, NOT_COUNTED, BACKGROUND],
        [NOT_COUNTED, CORRECT],
    ),
    "half outside a crowd": (
        [(DISC, (0, 0, 90, 90), True)],
        [(DISC, (80, 0, 20, 20), 0.9), (DISC, (81, 0, 20, 20), 0.9)],
        [NOT_COUNTED, BACKGROUND],
        [NOT_COUNTED],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind(name):
    objects, found, kinds, of_objects = CASES[name]
    errors = match_image(*case(objects, found))
    assert errors.detection_types.tolist() == kinds and errors.object_types.tolist() == of_objects


def test_the_overlap_of_a_hit_is_an_option():
    truth, found = case([(DISC, AT)], [(DISC, shifted(5), 0.9)])  # IoU 0.6
    assert match_image(truth, found, iou=0.61).detection_types.tolist() == [POOR_LOCALISATION]
    assert match_image(truth, found, iou=0.6).detection_types.tolist() == [CORRECT]


def test_pairs_and_weight():
    truth, found = case(
        [(DISC, AT), (DISC, (60, 60, 9, 9)), (STAR, (80, 80, 9, 9)), (STAR, (0, 0, 99, 99), True)],
        [
            (DISC, AT, 1.0),
            (DISC, AT, 0.75),
            (DISC, (80, 80, 9, 9), 0.5),
            (DISC, (0, 90, 4, 4), 0.1),
        ],
    )
    errors = match_image(truth, found)
    assert sorted(map(tuple, confusion_pairs(truth, found, errors).tolist())) == sorted(
        [(DISC, DISC), (NO_MATCH, DISC), (STAR, DISC), (DISC, NO_MATCH)]
    )
    assert errors.weight(found) == 0.75 + 0.5 + 1


@pytest.mark.parametrize("seed", range(6))
def test_what_is_right_is_what_coco_matches(seed, tmp_path):
    content, detections = random_case(seed)
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation["id"] = number  # pycocotools takes 0 for no match
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    known, found = load_annotations(path), as_arrays(detections).by_image()
    scored = score("pycocotools", content, found)
    coco = COCOeval(scored.cocoGt, scored.cocoDt, "bbox")
    coco.params.maxDets, coco.params.areaRng, coco.params.iouThrs = [1000], [[0, 1e10]], [0.5]
    coco.evaluate()
    matches = [e for e in coco.evalImgs if e is not None]
    wanted = {(d, s) for e in matches for d, m, i, s in zip(
        e["dtIds"], e["dtMatches"][0], e["dtIgnore"][0], e["dtScores"]) if m and not i}  # fmt: skip
    summary = ErrorSummary(known, found, {}, threshold=0.5)
    hits, shown = [], 0
    for index in range(len(known)):
        objects, here, errors = summary.image_errors(index)
        hits += (summary.detection_indices(index)[errors.hits] + 1).tolist()
        shown += (errors.detection_types != NOT_COUNTED).sum()
        assert ((errors.detection_types == CORRECT) == (errors.hits & (here.scores >= 0.5))).all()
        counted = confusion_pairs(objects, here, errors)
        assert (counted[:, 0] != NO_MATCH).sum() == (~objects.crowds).sum()
        assert (counted[:, 1] != NO_MATCH).sum() == (errors.detection_types != NOT_COUNTED).sum()
    assert set(hits) == {d for d, _ in wanted} and len(hits) > 20
    kinds = dict(
        zip((kind.name for kind in ERROR_TYPES), summary.type_counts.tolist(), strict=True)
    )
    right = sum(s >= 0.5 for _, s in wanted)
    assert kinds["correct"] == [right, right]
    assert summary.type_counts.sum(0).tolist() == [shown, (~known.crowds).sum()]
    assert summary.precision() == right / shown
    assert summary.recall() == right / (~known.crowds).sum()
    assert summary.calibration.hits.sum() == len(wanted)


def test_calibration():
    scores = np.array([0.05, 0.15, 0.17, 0.9, 1.0, 0.95, 0.98])
    hits = np.array([False, True, False, True, True, True, False])
    found = Calibration.of(scores, hits)
    assert found.hits.tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    assert found.misses.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    # Bins: |0 - 0.05| of 1, |1/2 - 0.16| of 2, |3/4 - 0.9575| of 4 detections.
    gaps = 0.05, 2 * 0.34, 4 * 0.2075
    assert found.error() == pytest.approx(sum(gaps) / 7)
    assert found.error(first_bin=1) == pytest.approx(sum(gaps[1:]) / 6)
    assert np.isnan(Calibration.of(np.zeros(0), np.zeros(0, bool)).error())


def test_summary_of_a_split_without_detections(tmp_path):
    content, _ = random_case(0)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    summary = ErrorSummary(load_annotations(path), as_arrays([]), {})
    assert summary.precision() is None and summary.recall() == 0
    assert summary.type_counts[MISSED].tolist() == [0, (~summary.annotations.crowds).sum()]
    weights = summary.weights[summary.worst(len(summary.weights))]
    assert (np.diff(weights) <= 0).all() and weights[0] > 0
