"""Study files and runs with known numbers, made without training."""

import json
from pathlib import Path

import torch

from tests.helpers.tool_runs import run_tool
from tools import compare
from tools.comparison.found_runs import run_folder
from tools.comparison.study import Study, read_study
from util import VERSION

STUDY = """
title = "made up"
command = "main.py"
options = "--coco_path data --batch_size 4 --epochs 3"
seeds = [1, 2, 3]
baseline = "none"
thresholds = [0.5]

[configurations]
none = ""
box = "--dec_rpe box-log"
"""
# AP after each of three epochs, by seed. At the end: none has mean 0.52 and deviation 0.02; box is
# 0.10, 0.09 and 0.11 above it.
AP = {
    "none": {1: (0.1, 0.3, 0.50), 2: (0.1, 0.3, 0.52), 3: (0.1, 0.5, 0.54)},
    "box": {1: (0.2, 0.5, 0.60), 2: (0.2, 0.6, 0.61), 3: (0.5, 0.6, 0.65)},
}
STEPS = 250  # an epoch


def write_study(folder: Path, *changes: tuple[str, str], text: str = STUDY) -> Path:
    """Write a study file in which texts are replaced by others."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.toml"
    path.write_text(text)
    return path


def made_row(epoch: int, ap: float) -> dict:
    return {
        "train_loss": 4 - ap, "test_loss": 5 - ap, "test_coco_eval_bbox": [ap, *[0.7] * 11],
        "epoch": epoch, "n_parameters": 1234567,
    }  # fmt: skip


def write_run(
    root: Path, study: Study, name: str, seed: int, scores, step_ms: float = 100, /, **changes
) -> Path:
    """Write log.txt, speed.csv and checkpoint.pth of a run.

    Args:
        scores: AP after each epoch; the run is finished if it has as many as --epochs says.
        changes: of the options that the checkpoint has.
    """
    folder = run_folder(root, name, seed)
    folder.mkdir(parents=True)
    args = study.expected_args(name, seed)
    vars(args).update(
        output_dir=str(folder), resume="auto", num_workers=7, world_size=1, num_classes=6, rank=0
    )
    vars(args).update(changes)
    rows = [made_row(epoch, ap) for epoch, ap in enumerate(scores)]
    (folder / "log.txt").write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = STEPS * args.batch_size
    # The second epoch was stopped after a tenth, which says less of it.
    counts = [images if epoch != 1 else images * 9 // 10 for epoch in range(len(rows))]
    # The first epoch is three times as slow, as where data are read for the first time.
    lines = [
        f"{epoch},{(1 if epoch else 3) * step_ms / 1000 * count / args.batch_size:.3f},{count}"
        for epoch, count in enumerate(counts)
    ]
    table = "epoch,train_seconds,train_images\n" + "\n".join(lines) + "\n"
    (folder / "speed.csv").write_text(table)
    content = {"model": {}, "args": args, "epoch": len(rows) - 1, "step": 0, "log": rows,
               "pending": None, "version": VERSION}  # fmt: skip
    torch.save(content, folder / "checkpoint.pth")
    return folder


def write_runs(root: Path, path: Path, scores: dict | None = None) -> Path:
    """Write the runs of a study file; box takes 120 ms a step, none 100 ms."""
    study = read_study(path)
    for name, by_seed in (scores or AP).items():
        for seed, values in by_seed.items():
            write_run(root, study, name, seed, values, 120 if name == "box" else 100)
    return root


def read(path: Path, root: Path) -> tuple[str, dict]:
    """Run the command with --read_only; returns stdout, and comparison.json."""
    run = run_tool(compare, path, "--output_dir", root, "--read_only")
    assert run.code == 0, run.err
    return run.out, json.loads((root / "comparison.json").read_text())


def cells(out: str) -> dict[str, list[str]]:
    """Return the cells of each row by the name in its first one."""
    lines = out.split("\n\n")[1].splitlines()
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    return {name: rest for name, *rest in rows}
