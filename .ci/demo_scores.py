"""Compare what the three demos have reached with what they have to reach."""

import json
from pathlib import Path


def last_row(run: str) -> dict:
    """Return the last line of a run's log.txt."""
    return json.loads(Path("output", run, "log.txt").read_text().splitlines()[-1])


boxes, masks, panoptic = map(last_row, ("demo", "demo-masks", "demo-panoptic"))
found = {
    "AP of boxes": (boxes["test_coco_eval_bbox"][0], 0.55),
    "AP50 of boxes": (boxes["test_coco_eval_bbox"][1], 0.85),
    "AP of masks": (masks["test_coco_eval_masks"][0], 0.45),
    "PQ": (panoptic["test_PQ_all"]["pq"], 0.55),
}
for name, (value, wanted) in found.items():
    print(f"{name}: {value:.3f}, wanted {wanted}")
raise SystemExit(any(value < wanted for value, wanted in found.values()))
