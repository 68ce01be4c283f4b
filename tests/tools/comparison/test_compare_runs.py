"""Studies that are trained: killed and stopped in the middle, and of classifiers as local jobs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.commands import QUIET, ROOT, TINY_RUN
from tests.helpers.forks import default_signals

pytestmark = pytest.mark.slow
COMPARE = str(ROOT / "tools" / "compare.py")
STUDY = """
title = "tiny"
command = "main.py"
options = {options}
seeds = [1, 2]
baseline = "plain"
image_sizes = [64]

[configurations]
plain = ""
boxes = "--dec_rpe box-log"
"""


def start(*words) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, COMPARE, *map(str, words)], cwd=ROOT, env={**os.environ, **QUIET},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=default_signals,
    )  # fmt: skip


def finish(*words) -> tuple[str, str]:
    process = start(*words)
    out, err = process.communicate(timeout=800)
    assert process.returncode == 0, err
    return out, err


def wait_for_file(path: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, path
        time.sleep(0.01)


def without_times(root: Path, out: str) -> tuple[list[str], list]:
    """Return the table without milliseconds, and all numbers of comparison.json without times."""
    lines = out.splitlines()
    left = lines[3].index("GMACs") + len("GMACs")
    right = lines[3].index("ms/step") + len("ms/step")
    lines[3:6] = [line[:left] + line[right:] for line in lines[3:6]]
    content = json.loads((root / "comparison.json").read_text())
    rows = [{**row, "step_milliseconds": 0} for row in content["configurations"]]
    return lines, [rows, [run["points"] for run in content["runs"]]]


@pytest.fixture(scope="module")
def study(tmp_path_factory, shapes) -> Path:
    path = tmp_path_factory.mktemp("study") / "study.toml"
    options = [*TINY_RUN, "--epochs", "1", "--batch_size", "2", "--coco_path", str(shapes),
               "--lr", "1e-3", "--lr_backbone", "1e-3",
               "--checkpoint_every", "0.00001"]  # fmt: skip
    # The AP of so short a training may be 0 whatever happens; the loss shows any difference.
    text = STUDY.format(options=json.dumps(options))
    path.write_text(text.replace("image_sizes", 'metric = "test_loss"\nimage_sizes'))
    return path


def test_a_study_that_is_killed_and_stopped_gives_the_same_table(study, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    wanted, _ = finish(study, "--output_dir", whole)
    assert len(wanted.splitlines()) == 6 and "lower is better" in wanted

    process = start(study, "--output_dir", killed)
    wait_for_file(killed / "boxes" / "seed_1" / "checkpoint.pth", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "comparison.json").exists()
    assert not (killed / "plain" / "seed_2").exists()

    process = start(study, "--output_dir", killed)
    wait_for_file(killed / "plain" / "seed_2" / "checkpoint.pth", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 75, err
    assert err.splitlines()[-1] == "stopped: the same command goes on from here"
    said = (killed / "plain" / "seed_2" / "output.txt").read_text()
    assert said.count("SIGTERM: this run will stop at the end of its step") == 1

    out, err = finish(study, "--output_dir", killed)
    assert "run 1 of 4" not in err and "run 3 of 4, plain, seed 2: training" in err
    assert without_times(killed, out) == without_times(whole, wanted)
    assert re.search(r"resuming .*plain/seed_2/checkpoint.pth",
                     (killed / "plain" / "seed_2" / "output.txt").read_text())  # fmt: skip
    # An evaluation at the size of the training has the log's own numbers.
    content = json.loads((killed / "comparison.json").read_text())
    for row in content["configurations"]:
        assert row["sizes"]["64"]["estimate"] == row["estimate"]
        assert row["estimate"]["count"] == 2 and row["estimate"]["std"] > 0

    stamps = {path: path.stat().st_mtime_ns for path in killed.rglob("*.pth")}
    again, err = finish(study, "--output_dir", killed)
    assert again == out and "training" not in err and "evaluation" not in err
    assert stamps == {path: path.stat().st_mtime_ns for path in killed.rglob("*.pth")}


def test_classifiers_as_jobs_on_this_machine(tmp_path):
    """By run_with_submitit.py with --cluster local; evaluated at another size."""
    pytest.importorskip("timm")
    from tests.classification.classifier_runs import TINY, draw_classes

    data = draw_classes(tmp_path / "data")
    options = [*TINY, "--data-path", str(data), "--epochs", "1"]
    text = STUDY.format(options=json.dumps(options)).replace(
        '"main.py"', '"classification/main.py"'
    )
    text = text.replace("[64]", "[16, 32]").replace("[1, 2]", "[3]")
    path = tmp_path / "study.toml"
    path.write_text(text.replace("--dec_rpe box-log", "--drop-path 0"))
    local = ["--slurm", "--cluster", "local", "--ngpus", "0"]
    out, _ = finish(path, "--output_dir", tmp_path / "out", *local)
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert content["metric"] == "test_acc1" and "at size 32" in out
    for row in content["configurations"]:
        assert row["sizes"]["16"]["estimate"] == row["estimate"] and row["estimate"]["count"] == 1
        assert row["sizes"]["32"]["estimate"]["count"] == 1
    assert list((tmp_path / "out" / "plain" / "seed_3" / "jobs").glob("*/*_submitted.pkl"))
