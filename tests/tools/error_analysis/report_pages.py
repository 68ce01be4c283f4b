"""Error reports of known detections: a split's objects, some of them changed."""

import json
import re

import numpy as np

from datasets.annotations.instances import load_annotations
from datasets.coco_eval import CocoEvaluator
from datasets.images import ImageReader
from datasets.scoring.detections import Detections
from tools.error_analysis.page import error_page
from tools.error_analysis.summary import ErrorSummary

EVIL = '</script><script>document.title="owned"</script>'


def data_of(page) -> dict:
    text = page.read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def page_of(root, path, change, categories=None, most=24):
    """Write the page of the split in `root` with detections made of its objects.

    Args:
        change: image's place, label, (x, y, w, h) of an object -> detections (label, box, score).
    """
    content = json.loads((root / "annotations/instances_val2017.json").read_text())
    content["categories"] = categories or content["categories"]
    ann_file = path.with_suffix(".json")
    ann_file.write_text(json.dumps(content))
    known = load_annotations(ann_file)
    rows = [
        (known.image_ids[i], *found)
        for i in range(len(known))
        for n in known.objects(i)
        for found in change(i, int(known.labels[n]), known.boxes[n].tolist())
    ]
    ids, labels, boxes, scores = zip(*rows, strict=True) if rows else ((),) * 4
    evaluator = CocoEvaluator(known)
    evaluator.results = [
        Detections(np.array(ids, np.int64), np.array(labels, np.int64),
                   np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32))
    ]  # fmt: skip
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    summary = ErrorSummary(known, evaluator.results[0], {9: "class 9"})
    facts, reader = {"checkpoint": EVIL}, ImageReader(root / "val2017")
    path.write_text(error_page(EVIL, facts, summary, evaluator, reader, summary.worst(most)))
    return summary


def mixed(index, label, box):
    """Objects of image 0 are missed, discs (1) of the next four called squares (2)."""
    if index == 0:
        return []
    if index < 5 and label == 1:
        return [(2, box, 0.9)]
    if index == 6:
        return [(label, box, 0.9), (label, box, 0.8)]
    return [(label, box, 0.99)]
