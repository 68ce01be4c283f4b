"""Average precision of masks: both scorers as pycocotools, and the truth is found to be right."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from datasets.annotations.instances import load_annotations
from datasets.coco_eval import CocoEvaluator
from datasets.masks import decode_mask, encode_masks
from tests.helpers.commands import free_port
from tests.helpers.data import COCO_PATH, make_shapes, needs_coco
from util import distributed as dist
from util.errors import UserError

HEIGHT, WIDTH = 40, 60


def blob(rng: np.random.Generator) -> np.ndarray:
    """Return a rectangle with holes."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    top, left = rng.integers(0, HEIGHT - 4), rng.integers(0, WIDTH - 4)
    mask[top : top + rng.integers(2, 30), left : left + rng.integers(2, 30)] = True
    return mask & (rng.random((HEIGHT, WIDTH)) < 0.9)


def random_case(seed: int) -> tuple[dict, list[tuple[int, int, float, np.ndarray]]]:
    """Polygons, run lengths of both kinds, and crowds; detections that are near, and others."""
    rng = np.random.default_rng(seed)
    images = [{"id": i, "height": HEIGHT, "width": WIDTH, "file_name": "x"} for i in range(1, 16)]
    annotations, detections = [], []
    for image in images:
        masks = []
        for _ in range(rng.integers(0, 7)):
            mask, category = blob(rng), int(rng.integers(1, 4))
            runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            kind = rng.integers(3)
            if kind == 0:
                x, y = rng.integers(0, WIDTH - 9), rng.integers(0, HEIGHT - 9)
                size = int(rng.integers(4, 20))
                outline = [[int(v) for v in (x, y, x + size, y, x + size, y + size, x, y + size)]]
                runs = coco_mask.merge(coco_mask.frPyObjects(outline, HEIGHT, WIDTH))
            elif kind == 1:
                edges = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=False))
                counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
                outline = {"counts": counts, "size": [HEIGHT, WIDTH]}
            else:
                outline = {"counts": runs["counts"].decode(), "size": [HEIGHT, WIDTH]}
            masks.append((category, coco_mask.decode(runs).astype(bool)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "segmentation": outline,
                    "bbox": coco_mask.toBbox(runs).tolist(),
                    "area": float(coco_mask.area(runs)) * float(rng.choice([1, 30])),
                    "iscrowd": int(kind and rng.random() < 0.3),
                }
            )
        for _ in range(rng.integers(0, 30)):
            category, mask = int(rng.integers(1, 5)), blob(rng)
            if masks and rng.random() < 0.7:
                category, mask = masks[rng.integers(len(masks))]
                mask = mask ^ (rng.random(mask.shape) < rng.choice([0, 0.1, 0.02]))
            detections.append((image["id"], category, float(rng.choice([0.25, 0.5, 1])), mask))
    categories = [{"id": i, "name": f"c{i}"} for i in (1, 2, 3)]
    content = {"images": images, "annotations": annotations, "categories": categories, "info": {}}
    return content, detections


def by_hand(content: dict, detections: list[tuple]) -> COCOeval:
    """pycocotools as its own examples use it."""
    truth = COCO()
    truth.dataset = json.loads(json.dumps(content))
    truth.createIndex()
    results = [
        {
            "image_id": image,
            "category_id": category,
            "score": score,
            "segmentation": coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)),
        }
        for image, category, score, mask in detections
    ]
    evaluator = COCOeval(truth, truth.loadRes(results), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


def evaluator_of(path: Path, detections: list[tuple], scorer: str) -> CocoEvaluator:
    """Return an evaluator that was fed image by image, as in an evaluation."""
    evaluator = CocoEvaluator(load_annotations(path, None, True), ("bbox", "segm"), scorer)
    for image in sorted({image for image, *_ in detections}):
        _, labels, scores, masks = zip(*(d for d in detections if d[0] == image), strict=True)
        found = {
            "labels": torch.tensor(labels),
            "scores": torch.tensor(scores),
            "boxes": torch.zeros(len(labels), 4),
            "masks": torch.from_numpy(np.stack(masks)),
        }
        evaluator.update({image: found})
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


@pytest.mark.parametrize("scorer", ["faster", "pycocotools"])
@pytest.mark.parametrize("seed", range(6))
def test_numbers_are_those_of_pycocotools(seed, scorer, tmp_path):
    content, detections = random_case(seed)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    wanted = by_hand(content, detections)
    assert 0 < wanted.stats[0] < 1
    found = evaluator_of(path, detections, scorer)
    for name in ("precision", "recall", "scores"):
        left, right = found.coco_eval["segm"].eval[name], wanted.eval[name]
        assert np.allclose(left, right, rtol=0, atol=1e-12), np.abs(left - right).max()
    assert found.stats["segm"] == pytest.approx(wanted.stats.tolist(), abs=1e-12)


def test_more_masks_than_pycocotools_can_measure_at_once(tmp_path):
    content, detections = random_case(0)
    content["annotations"] = content["annotations"][:3]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    many = [detections[0]] * 300
    assert evaluator_of(path, many, "faster").stats["segm"] is not None


def test_run_lengths_of_masks():
    masks = np.stack([blob(np.random.default_rng(i)) for i in range(3)])
    for mask, runs in zip(masks, encode_masks(masks), strict=True):
        assert runs["size"] == [HEIGHT, WIDTH]
        assert np.array_equal(decode_mask(runs, HEIGHT, WIDTH), mask)
    assert encode_masks(masks[:0]) == []


def test_masks_need_the_sizes_of_images(tmp_path):
    content, _ = random_case(0)
    del content["images"][2]["height"]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    known = load_annotations(path, None, True)
    known.for_scoring("bbox")
    with pytest.raises(UserError, match=r"instances\.json: image 3 lacks its height"):
        known.for_scoring("segm")


# ---- the truth, given back as if it were found ----


def feed_back(rank: int, world_size: int, port: int, path: Path, out: Path) -> None:
    """Score every world_size-th image, as one of several processes."""
    if world_size > 1:
        torch.distributed.init_process_group(
            "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size
        )
    known = load_annotations(path, None, True)
    evaluator = CocoEvaluator(known, ("bbox", "segm"))
    for index in range(rank, len(known), world_size):
        numbers = known.objects(index)  # without crowds
        height, width = int(known.heights[index]), int(known.widths[index])
        masks = [decode_mask(known.segmentation(n), height, width) for n in numbers]
        boxes = torch.from_numpy(known.boxes[numbers])
        found = {
            "labels": torch.from_numpy(known.labels[numbers]),
            "scores": torch.ones(len(numbers)),
            "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            "masks": torch.from_numpy(np.array(masks).reshape(-1, height, width)).bool(),
        }
        evaluator.update({int(known.image_ids[index]): found})
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    (out / f"{rank}_of_{world_size}.json").write_text(json.dumps(evaluator.stats))
    dist.shut_down()


def check_perfect(path: Path, out: Path) -> None:
    content = json.loads(path.read_text())
    assert any(a["iscrowd"] for a in content["annotations"])  # which nobody finds
    feed_back(0, 1, 0, path, out)
    torch.multiprocessing.spawn(feed_back, (2, free_port(), path, out), nprocs=2)
    stats = [json.loads((out / f"{name}.json").read_text()) for name in ("0_of_1", "0_of_2")]
    assert stats[0] == stats[1] == json.loads((out / "1_of_2.json").read_text())
    for iou_type in ("bbox", "segm"):
        assert stats[0][iou_type][:3] == pytest.approx([1, 1, 1], abs=1e-9), iou_type


def test_truth_scores_1(tmp_path):
    data = make_shapes(tmp_path / "shapes", "--train", "1", "--val", "60", "--size", "64")
    check_perfect(data / "annotations" / "instances_val2017.json", tmp_path)


@pytest.mark.slow
@needs_coco
@pytest.mark.parametrize("split", ["train", "val"])
def test_truth_of_coco_scores_1(split, tmp_path):
    check_perfect(COCO_PATH / "annotations" / f"instances_{split}2017.json", tmp_path)
