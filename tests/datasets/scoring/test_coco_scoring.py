"""Both scorers give pycocotools' numbers, to 1e-12, and from any number of processes."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from datasets.annotations.instances import load_annotations
from datasets.coco_eval import CocoEvaluator
from datasets.scoring.coco import score
from datasets.scoring.detections import Detections
from tests.helpers.scoring_cases import as_arrays, found_of, random_case
from tests.helpers.two_processes import in_two_processes

ARRAYS = ("precision", "recall", "scores")


def by_hand(content: dict, detections: list[tuple]) -> COCOeval:
    """pycocotools as its own examples use it: detections from a list of results."""
    truth = COCO()
    truth.dataset = json.loads(json.dumps(content))
    truth.createIndex()
    results = [
        {"image_id": i, "category_id": c, "bbox": box, "score": float(s)}
        for i, c, box, s in sorted(detections, key=lambda d: d[0])
    ]
    evaluator = COCOeval(truth, truth.loadRes(results) if results else COCO(), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


def assert_same(found: COCOeval, wanted: COCOeval) -> None:
    found.summarize()
    assert list(found.eval) == list(wanted.eval)
    assert found.eval["counts"] == wanted.eval["counts"]
    for name in ARRAYS:
        left, right = found.eval[name], wanted.eval[name]
        assert left.dtype == right.dtype and left.shape == right.shape
        assert np.allclose(left, right, rtol=0, atol=1e-12), np.abs(left - right).max()
    assert np.allclose(found.stats, wanted.stats, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scorer", ["faster", "pycocotools"])
@pytest.mark.parametrize("seed", range(12))
def test_numbers_are_those_of_pycocotools(seed, scorer):
    content, detections = random_case(seed)
    wanted = by_hand(content, detections)
    assert 0 < wanted.stats[0] < 1
    assert_same(score(scorer, content, as_arrays(detections).by_image()), wanted)


@pytest.mark.parametrize("hits", [0, 1, 2, 3])
@pytest.mark.parametrize("objects", [1, 2, 3, 4, 5, 128, 129, 300])
def test_curves_that_begin_with_hits(objects, hits):
    hits = min(hits, objects)
    boxes = [[20 * i, 0, 10, 10] for i in range(objects)]
    content = {
        "info": {}, "images": [{"id": 1}, {"id": 2}, {"id": 3}], "categories": [{"id": 4}],
        "annotations": [
            {"id": i + 1, "image_id": i % 3 + 1, "category_id": 4, "bbox": box, "area": 100,
             "iscrowd": 0} for i, box in enumerate(boxes)
        ],
    }  # fmt: skip
    found = [(i % 3 + 1, 4, boxes[i], 1 - i / 8) for i in range(hits)]
    misses = [(1, 4, [0, 500, 9, 9], 0.25)]
    later = [(i % 3 + 1, 4, boxes[i], 0.125) for i in range(hits, min(objects, 50))]
    for detections in (found, found + misses, found + misses + later):
        wanted = by_hand(content, detections)
        assert_same(score("faster", content, as_arrays(detections).by_image()), wanted)
        if hits:
            assert wanted.eval["precision"][0, 0, 0, 0, 2] == pytest.approx(1)


@pytest.mark.parametrize("scorer", ["faster", "pycocotools"])
def test_nothing_to_score(scorer, capsys):
    image, category = {"id": 1}, {"id": 1}
    for images, categories in (([], []), ([image], []), ([], [category]), ([image], [category])):
        content = {"images": images, "categories": categories, "annotations": []}
        result = score(scorer, content, Detections.joined([]))
        assert not capsys.readouterr().out
        result.summarize()
        capsys.readouterr()
        assert (result.stats == -1).all()


def score_part(rank: int, path, seed: int) -> list[float]:
    """Score every other image of the case, in descending order, as one of two processes."""
    content, detections = random_case(seed)
    evaluator = CocoEvaluator(load_annotations(path))
    for image in sorted(image["id"] for image in content["images"])[::-1][rank::2]:
        evaluator.update({image: found_of(detections, image)})
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator.stats["bbox"]


def test_equal_scores_keep_their_order_over_processes(tmp_path):
    content, detections = random_case(0)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    wanted = by_hand(content, detections).stats.tolist()
    assert by_hand(content, detections[::-1]).stats.tolist() != wanted  # the case can tell
    for stats in in_two_processes(score_part, tmp_path, path, 0):
        assert stats == pytest.approx(wanted, abs=1e-12)


def test_detections_are_sent_as_arrays():
    """Each process sends four arrays, however many images it has."""
    evaluator = CocoEvaluator(None)
    for image_id in (5, 2):
        evaluator.update({image_id: found_of([(image_id, 3, [1, 2, 3, 4], 0.5)] * 2, image_id)})
    joined = Detections.joined(evaluator.results).by_image()
    assert joined.image_ids.tolist() == [2, 2, 5, 5] and joined.labels.dtype == np.int64
    assert joined.boxes.tolist() == [[1, 2, 3, 4]] * 4 and joined.boxes.dtype == np.float32
    assert joined.annotations()[3] == {
        "id": 4, "image_id": 5, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "score": 0.5,
        "iscrowd": 0,
    }  # fmt: skip


@pytest.mark.parametrize("scorer", ["faster", "pycocotools"])
@pytest.mark.parametrize(("found", "uncut"), [(100, None), (120, 81 / 101), (150, 1.0)])
def test_more_detections_than_coco_counts(tmp_path, capsys, scorer, found, uncut):
    """Of 150 objects COCO counts the first 100 that are found: 67 of 101 points of recall."""
    boxes = [[20 * i, 0, 10, 10] for i in range(150)]
    content = {
        "info": {}, "images": [{"id": 1, "file_name": "a.jpg", "width": 3000, "height": 9}],
        "categories": [{"id": 4, "name": "cell"}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 4, "bbox": box, "area": 100, "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
    }  # fmt: skip
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    evaluator = CocoEvaluator(load_annotations(path), scorer=scorer)
    hits = [(1, 4, box, 1 - i / 256) for i, box in enumerate(boxes[:found])]
    evaluator.update({1: found_of(hits, 1)})
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    assert evaluator.stats["bbox"][0] == pytest.approx(67 / 101)
    assert evaluator.logged().get("coco_eval_bbox_AP_uncut") == pytest.approx(uncut)
    line = "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=all ] ="
    printed = capsys.readouterr().out
    assert f"{line} {uncut:.3f}" in printed if uncut else "maxDets=all" not in printed
