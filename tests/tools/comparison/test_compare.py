"""The whole command on runs that are made up, started with --read_only."""

import json
import math
import shutil

import pytest
import torch

from tests.helpers.commands import ROOT
from tests.helpers.tool_runs import line_of
from tests.tools.comparison.made_studies import (
    AP,
    cells,
    made_row,
    read,
    write_run,
    write_runs,
    write_study,
)
from tools import compare
from tools.comparison import commands
from tools.comparison.found_runs import find_runs
from tools.comparison.study import read_study
from util.errors import UserError

BOX = 'box = "--dec_rpe box-log"'


def test_a_table_worked_out_by_hand(path, root):
    """4.302653 is t of 2 degrees of freedom at 97.5 %."""
    out, content = read(path, root)
    table = cells(out)
    assert table["configuration"] == [
        "seeds", "mean", "std", "interval", "difference", "its interval", "verdict", "parameters",
        "GMACs", "ms/step", "steps to 0.5",
    ]  # fmt: skip
    assert table["none"] == [  # reached after 3, 3 and 2 epochs of 250 steps
        "3", "0.5200", "0.0200", "0.4703 .. 0.5697", "baseline", "-", "-", "1,234,567",
        "81.23", "100", "667",
    ]  # fmt: skip
    assert table["box"] == [  # after 2, 2 and 1
        "3", "0.6200", "0.0265", "0.5543 .. 0.6857", "+0.1000", "0.0752 .. 0.1248", "better",
        "1,234,567", "81.32", "120", "417",
    ]  # fmt: skip
    assert out.splitlines()[:2] == [
        "made up",
        "AP of boxes (test_coco_eval_bbox_AP) after the last epoch, higher is better; 3 seed(s); "
        "intervals: 95 % t",
    ]
    assert "note:" not in out
    box = content["configurations"][1]
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert box["difference"] == pytest.approx(
        {"count": 3, "mean": 0.1, "std": 0.01, "low": 0.1 - half, "high": 0.1 + half}, abs=1e-7
    )
    assert box["differences"] == pytest.approx({"1": 0.1, "2": 0.09, "3": 0.11})
    assert box["steps_to"][0]["steps"] == {"1": 500, "2": 500, "3": 250}
    assert (box["image_cost"]["height"], box["image_cost"]["width"]) == (800, 1066)
    assert content["study"]["configurations"]["box"] == "--dec_rpe box-log"
    assert content["versions"]["torch"] == torch.__version__ and content["cpu"]
    assert "--read_only" in content["command"] and content["date"].startswith("20")
    assert [(run["seed"], run["configuration"]) for run in content["runs"]][:3] == [
        (1, "none"), (1, "box"), (2, "none")
    ]  # fmt: skip
    assert content["runs"][1]["points"] == [[0, 0.2], [1, 0.5], [2, 0.6]]


def test_the_table_in_the_docs(tmp_path):
    """It is that of the example study, by the scores that were measured."""
    path = ROOT / "studies" / "dec_rpe" / "study.toml"
    measured = json.loads((path.parent / "results.json").read_text())
    scores = {"none": {}, "box-log": {}}
    for run in measured["runs"]:
        scores[run["configuration"]][run["seed"]] = [value for _, value in run["points"]]
    out, _ = read(path, write_runs(tmp_path / "out", path, scores))
    page = (ROOT / "docs" / "comparing.md").read_text()
    shown = next(block for block in page.split("```") if "intervals: 95 % t" in block).splitlines()
    lines = [line.split() for line in out.splitlines()]
    assert len(lines) == 6
    for line, wanted in zip(lines, shown[1:], strict=True):
        words = wanted.removesuffix("...").split()
        assert line[: len(words)] == words
    assert [cells(out)[name][-1] for name in scores] == ["4,750", "2,600"]


def test_runs_that_are_missing_or_not_finished_are_said(path, root):
    shutil.rmtree(root / "box" / "seed_2")
    shutil.rmtree(root / "none" / "seed_3")
    write_run(root, read_study(path), "none", 3, (0.9,))
    out, content = read(path, root)
    table = cells(out)
    assert table["none"][:2] == ["2 of 3", "0.5100"] and table["box"][:2] == ["2 of 3", "0.6250"]
    # Of one common seed: a difference, and no interval.
    assert table["box"][4:7] == ["+0.1000", "-", "not shown"]
    assert "note: box, seed 2: not started; not in the table\n" in out
    assert "note: none, seed 3: unfinished, 1 epoch(s); not in the table\n" in out
    assert len(content["notes"]) == 3


@pytest.mark.parametrize("name", ["none", "box"])
def test_a_seed_that_failed_leaves_no_verdict(tmp_path, name):
    """A run whose loss is not finite ends early; the other seeds are a selection."""
    path = write_study(tmp_path, ("[1, 2, 3]", "[1, 2, 3, 4]"))
    scores = {of: {**by, 4: (0.1, 0.3, 0.5)} for of, by in AP.items()}
    root = write_runs(tmp_path / "out", path, scores)
    assert cells(read(path, root)[0])["box"][6] in ("better", "not shown")
    shutil.rmtree(root / name / "seed_4")
    write_run(root, read_study(path), name, 4, (0.1,))
    out, content = read(path, root)
    assert cells(out)["box"][5:7] == ["0.0752 .. 0.1248", "not shown"]
    assert "gets no verdict before all of its runs" in content["notes"][1]


def test_one_seed_has_no_interval(tmp_path):
    path = write_study(tmp_path, ("[1, 2, 3]", "[2]"))
    root = write_runs(tmp_path / "out", path, {name: {2: by[2]} for name, by in AP.items()})
    table = cells(read(path, root)[0])
    assert table["none"][:6] == ["1", "0.5200", "-", "-", "baseline", "-"]
    assert table["box"][:7] == ["1", "0.6100", "-", "-", "+0.0900", "-", "not shown"]


@pytest.mark.parametrize(("value", "word"), [(math.nan, "nan"), (math.inf, "inf")])
def test_numbers_that_are_not_finite_are_said_and_give_no_verdict(tmp_path, path, value, word):
    """The other seeds are far above the baseline; but those that diverged are left out."""
    path = write_study(tmp_path, ("[1, 2, 3]", "[1, 2, 3, 4]"))
    scores = {name: {**by, 4: (0.1, 0.3, 0.5)} for name, by in AP.items()}
    scores["box"][4] = (0.2, 0.4, value)
    out, content = read(path, write_runs(tmp_path / "out", path, scores))
    table = cells(out)
    assert table["box"][0] == "3 of 4" and table["box"][1] == "0.6200"
    assert table["box"][5:7] == ["0.0752 .. 0.1248", "not shown"]
    assert table["box"][-1] == "3 of 4 seeds"
    (note,) = content["notes"]
    assert note.startswith(f"box, seed 4: AP of boxes is {word}; left out of all means")
    assert content["configurations"][1]["seeds"]["4"] == {"value": None, "is_finite": False}


def test_a_number_that_is_not_there_is_said(path, root):
    """-1 is COCO's value for nothing to score."""
    log = root / "box" / "seed_1" / "log.txt"
    rows = [made_row(epoch, ap) for epoch, ap in enumerate((0.2, 0.5, -1))]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, content = read(path, root)
    assert cells(out)["box"][:2] == ["2 of 3", "0.6300"]
    assert content["notes"] == [
        "box, seed 1: has no number AP of boxes; left out of all means, and box gets no verdict: "
        "the seeds that are left are a selection"
    ]


def test_a_cost_that_cannot_be_counted_is_left_out(path, root, monkeypatch):
    def refuse(args):
        raise UserError("there is no such model any more")

    monkeypatch.setattr(commands, "detector_cost", refuse)
    out, content = read(path, root)
    assert cells(out)["box"][7:10] == ["1,234,567", "-", "120"]
    assert content["configurations"][1]["image_cost"] is None


def test_a_threshold_that_some_seeds_never_reach(tmp_path):
    path = write_study(tmp_path, ("[0.5]", "[0.53, 0.9]"))
    table = cells(read(path, write_runs(tmp_path / "out", path))[0])
    assert table["none"][-2:] == ["1 of 3 seeds", "0 of 3 seeds"]
    assert table["box"][-2:] == ["583", "0 of 3 seeds"]


def test_of_a_loss_less_is_better(tmp_path):
    path = write_study(tmp_path, ("thresholds = [0.5]", 'metric = "test_loss"\nthresholds = [4.7]'))
    out, content = read(path, write_runs(tmp_path / "out", path))
    assert "lower is better" in out and not content["higher_is_better"]
    assert cells(out)["box"][4:7] == ["-0.1000", "-0.1248 .. -0.0752", "better"]
    assert content["configurations"][0]["steps_to"][0]["epochs"] == {"1": 2, "2": 2, "3": 2}


def test_a_metric_that_no_log_has(tmp_path):
    path = write_study(tmp_path, ("thresholds = [0.5]", 'metric = "test_los"'))
    root = write_runs(tmp_path / "out", path)
    said = line_of(compare, path, "--output_dir", root, "--read_only")
    assert f"{path}: metric test_los is in no log; there are: test_coco_eval_bbox_AP, " in said


# ---- runs that are others ----


def test_an_epoch_that_is_not_evaluated_yet_is_not_the_end(path, root):
    checkpoint = root / "none" / "seed_1" / "checkpoint.pth"
    content = torch.load(checkpoint, weights_only=False)
    torch.save({**content, "pending": {"train_loss": 1.0}}, checkpoint)
    states = [run.state for run in find_runs(read_study(path), root)]
    assert states == ["unfinished", *["finished"] * 5]


def test_runs_that_stopped_early_are_finished(tmp_path):
    path = write_study(tmp_path, ("--epochs 3", "--epochs 9 --early_stop 2"))
    study, root = read_study(path), tmp_path / "out"
    write_run(root, study, "none", 1, (0.5, 0.4, 0.3))
    write_run(root, study, "box", 1, (0.5, 0.4, 0.6))
    states = [run.state for run in find_runs(study, root)]
    assert states == ["finished", "unfinished", *["absent"] * 4]


def test_options_of_the_command_that_exclude_each_other(tmp_path):
    path = write_study(tmp_path, ("--coco_path data ", f"--coco_path {tmp_path / 'absent'} "))
    root = tmp_path / "nothing"
    for options, says in (
        (["--read_only"], f"--output_dir {root}: no such folder"),
        (["--read_only", "--slurm"], "leave out one of them"),
        (["--ngpus", "1"], "--ngpus is of jobs: add --slurm"),
        (["--slurm", "--follow"], "--follow is not for studies: it would wait"),
        (["--slurm", "--job_dir", "x"], "--job_dir is not for studies: each run has its own"),
        ([], f"{path}: configurations.none: "),  # the data are not there
    ):
        assert says in line_of(compare, path, "--output_dir", root, *options)
    assert not root.exists()
    root.mkdir()
    said = line_of(compare, path, "--output_dir", root, "--read_only")
    assert f"--output_dir {root}: has no run of {path}" in said
