"""Compare what demos have reached with what they have to reach.

.ci/demo_scores.py demo demo-masks demo-panoptic
"""

import json
import sys
from pathlib import Path

# Run: what a row of its log.txt is asked for, and the least value of each; 0 to compare alone.
WANTED = {
    "demo": {
        "AP of boxes": (lambda row: row["test_coco_eval_bbox"][0], 0.55),
        "AP50 of boxes": (lambda row: row["test_coco_eval_bbox"][1], 0.85),
    },
    "demo-masks": {"AP of masks": (lambda row: row["test_coco_eval_masks"][0], 0.45)},
    "demo-classify": {"accuracy in % with the encoding": (lambda row: row["test_acc1"], 90)},
    "demo-classify-without": {"accuracy in % without": (lambda row: row["test_acc1"], 0)},
    "demo-panoptic": {"PQ": (lambda row: row["test_PQ_all"]["pq"], 0.55)},
}

too_low = False
for run in sys.argv[1:]:
    row = json.loads(Path("output", run, "log.txt").read_text().splitlines()[-1])
    for name, (read, least) in WANTED[run].items():
        print(f"{run}: {name} {read(row):.3f}, wanted {least}")
        too_low |= read(row) < least
raise SystemExit(too_low)
