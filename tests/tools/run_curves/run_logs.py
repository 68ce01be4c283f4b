"""Small log.txt files for tests of the tools that compare runs."""

import json
from pathlib import Path


def epoch_row(epoch: int, loss: float, ap: float | None = None) -> dict:
    row = {"train_loss": loss, "train_lr": 1e-4, "epoch": epoch}
    if ap is not None:
        row["test_loss"] = 2 * loss
        row["test_coco_eval_bbox"] = [ap, ap + 0.1, *[ap] * 3, -1.0, *[0.5] * 6]
        row["test_PQ_all"] = {"pq": ap / 2, "sq": 0.5, "rq": 0.5, "n": 3}
    return row


def made_with(data: str = "d", **options) -> dict:
    """Return an entry of args.json."""
    options = {"lr": 1e-4, "seed": 1, "output_dir": "out", **options}
    return {"options": options, "validation_data": data, "git": {"commit": "c" * 40}}


def write_log(folder: Path, rows: list[dict], end: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "log.txt").write_text(lines + end)
    return folder


ONE = [epoch_row(i, 8 / 2**i, 0.1 + 0.1 * i if i % 2 else None) for i in range(6)]
TWO = [epoch_row(i, 4 - i, 0.45 - 0.05 * i) for i in range(3)]
