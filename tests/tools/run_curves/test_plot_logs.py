"""Comparing runs: what is read, and the picture."""

import json
import math
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.commands import error_line, run_ok
from tests.tools.run_curves.run_logs import ONE, TWO, epoch_row, write_log
from tools.run_curves.charts import CHARTS, charts_of, run_colours
from tools.run_curves.page import write_page
from tools.run_curves.picture import MAX_NAME, draw_curves
from tools.run_curves.runs import LoggedRun, find_runs, read_run, read_runs, short_names
from util.errors import UserError

PLOT_LOGS = "tools/plot_logs.py"


@pytest.fixture
def two_runs(tmp_path) -> list[Path]:
    folders = [write_log(tmp_path / "runs" / "one", ONE), write_log(tmp_path / "runs" / "two", TWO)]
    (folders[0] / "speed.csv").write_text("epoch,train_images_per_second\n0,12.5\n1,13\n9,99\n")
    return folders


# ---- reading ----


def test_runs_are_found_at_any_depth_and_each_once(two_runs, tmp_path):
    """Also behind links; folders of parts that a run moved aside only by their names."""
    aside = write_log(two_runs[0] / "earlier_run_1", ONE[:1])
    deep = write_log(tmp_path / "runs" / "a" / "b" / "deep", ONE)
    for name in ("10", "9"):
        write_log(tmp_path / "numbered" / f"run{name}", ONE)
    assert [path.name for path in find_runs(tmp_path / "numbered")] == ["run9", "run10"]
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "of_one").symlink_to(two_runs[0])
    (tmp_path / "links" / "round").symlink_to(tmp_path / "links")
    assert find_runs(tmp_path / "runs") == [deep, *two_runs]
    assert find_runs(tmp_path / "links") == [tmp_path / "links" / "of_one"]
    runs, notes = read_runs([tmp_path / "links", tmp_path / "runs", two_runs[1], aside])
    assert [run.name for run in runs] == ["of_one", "deep", "two", "earlier_run_1"]
    assert [len(run.epochs) for run in runs] == [6, 6, 3, 1] and notes == []


def test_names_are_the_shortest_that_differ():
    def names(*paths):
        return short_names([Path(path) for path in paths])

    assert names("/o/demo", "/o/demo-masks") == ["demo", "demo-masks"]
    assert names("/o/a/run", "/o/b/run", "/o/c") == ["a/run", "b/run", "c"]
    assert names("/o/a/1/x", "/o/b/1/x", "/o/b/2/x") == ["a/1/x", "b/1/x", "2/x"]
    assert names("/run", "/a/run") == ["/run", "a/run"]
    assert names("/o/\udcff") == ["\ufffd"]  # not UTF-8 on disk


def test_speed_and_lists_are_numbers_of_the_epoch(two_runs):
    run = read_run(two_runs[0])
    assert run.points("train_images_per_second") == [(1, 12.5), (2, 13)]
    assert dict(run.points("test_coco_eval_bbox_AP50")) == pytest.approx({2: 0.3, 4: 0.5, 6: 0.7})
    assert dict(run.points("test_PQ_all_pq")) == pytest.approx({2: 0.1, 4: 0.2, 6: 0.3})
    assert run.points("test_coco_eval_bbox_AP_large") == []  # -1: there are none
    titles = [chart.title for chart in charts_of([run])]
    assert titles == [
        "AP, boxes", "AP50, boxes", "AP75, boxes", "AP of small objects, boxes",
        "AP of medium objects, boxes", "PQ", "sum of all losses (loss)", "learning rate",
        "images per second in training",
    ]  # fmt: skip


def test_numbers_that_cannot_be_drawn_are_left_out(tmp_path):
    """A run that diverged; the picture and the page are made all the same."""
    rows = [
        {"epoch": 0, "train_loss": 1.0, "train_lr": 0.0, "train_class_error": "7"},
        {"epoch": 1, "train_loss": math.nan, "train_lr": 0.0},
        {"epoch": 2, "train_loss": math.inf, "train_lr": 0.0, "test_coco_eval_bbox": [1, "a"]},
        {"epoch": 3, "train_loss": 10**400, "train_lr": 0.0, "test_PQ_all": {"pq": None}},
    ]
    runs, _ = read_runs([write_log(tmp_path, rows)])
    assert runs[0].points("train_loss") == [(1, 1.0)]
    assert [chart.training for chart in charts_of(runs)] == ["train_loss", "train_lr"]
    draw_curves(runs, tmp_path / "c.png")
    write_page(runs, tmp_path / "c.html")
    draw_curves([LoggedRun("nothing", [{"epoch": 3}])], tmp_path / "c.png")


def test_logs_of_other_code_and_of_runs_that_go_on(tmp_path):
    """Epochs that are there twice: the later one. A line that is not whole: left out, and said."""
    rows = [*ONE[:3], epoch_row(1, 5.0), epoch_row(2, 6.0)]
    runs, notes = read_runs([write_log(tmp_path, rows, json.dumps(ONE[3])[:40])])
    assert runs[0].points("train_loss") == [(1, 8), (2, 5), (3, 6)]
    assert notes == [f"{tmp_path / 'log.txt'}: its last line is half-written and left out"]
    runs, notes = read_runs([write_log(tmp_path, rows, json.dumps(ONE[3]))])  # whole, without \n
    assert len(runs[0].epochs) == 4 and notes == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no log\n", "not a log of a run, line 1 is not a JSON object with an epoch"),
        ('{"epoch": 0}\n{"epoch"\n{"epoch": 2}\n', "line 2 is not a JSON object with an epoch"),
        ('{"epoch": "0"}\n', "line 1 is not"),
        ('{"epoch": 1' + "0" * 50 + "}\n", "line 1 is not"),
        ("[" * 100_000, "line 1 is not"),
        ("\x89PNG\r\n\x1a\n\0\0", "line 1 is not"),
        ("", "no run to show: {log}: no epoch is complete yet"),
        ('{"epoch": 0, "tr', "no epoch is complete yet"),
    ],
)
def test_files_that_are_no_logs(tmp_path, content, says):
    log = tmp_path / "log.txt"
    log.write_text(content, encoding="latin-1")
    with pytest.raises(UserError) as error:
        read_runs([tmp_path])
    assert says.format(log=log) in str(error.value) and str(log) in str(error.value)
    assert "\n" not in str(error.value)


def test_among_others_a_file_that_is_no_log_is_left_out(two_runs):
    write_log(two_runs[0].parent / "broken", [], "no log\n")
    write_log(two_runs[0].parent / "started", [])
    runs, notes = read_runs([two_runs[0].parent])
    assert [run.name for run in runs] == ["one", "two"]
    assert [note.partition(" ")[0] for note in notes] == [
        "left", f"{two_runs[0].parent / 'started' / 'log.txt'}:"
    ]  # fmt: skip


# ---- the picture, and the command line ----


def colours_in(path: Path) -> set[str]:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    return {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(pixels, axis=0)}


@pytest.mark.slow
def test_pictures_have_each_run_in_its_colour(two_runs, tmp_path):
    out = tmp_path / "c.png"
    result = run_ok(PLOT_LOGS, tmp_path / "runs", "--output", out)
    assert result.stdout == f"2 run(s), 9 epochs: {out}\n" and result.stderr == ""
    first, second, third = run_colours(3)
    assert {first, second} <= colours_in(out) and third not in colours_in(out)
    said = error_line(PLOT_LOGS, *two_runs, "--output", out)
    assert said == f"error: {out}: exists; choose another --output or add --force"
    run_ok(PLOT_LOGS, two_runs[1], "--output", out, "--force")
    assert first in colours_in(out) and second not in colours_in(out)


def test_mistakes_get_one_line(two_runs, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    said = error_line(PLOT_LOGS, two_runs[0], empty, cwd=Path.cwd())
    assert said.startswith(f"error: {empty}: has no log.txt, nor has any folder in it; give")
    for path in (tmp_path / "nowhere", two_runs[0] / "log.txt"):
        with pytest.raises(UserError, match="is not a folder; give the --output_dir"):
            read_runs([path])
    said = error_line(PLOT_LOGS, two_runs[0], "--output", tmp_path / "c.jpg")
    assert "c.jpg: must end with .html, .png, .svg, .pdf" in said
    runs, _ = read_runs(two_runs)
    for write in (draw_curves, write_page):
        with pytest.raises(UserError, match=r"c.png: cannot be written \(No such file"):
            write(runs, tmp_path / "nowhere" / "c.png")


def test_names_are_drawn_as_they_are(tmp_path):
    """Dollars and a first underscore mean something to Matplotlib."""
    names = ("_hidden", "$x^{$", "a" * 300, "plain")
    draw_curves([LoggedRun(name, ONE) for name in names], tmp_path / "c.svg")
    written = (tmp_path / "c.svg").read_text()
    for name in names:  # each text is a comment in the file
        for line in textwrap.wrap(name, MAX_NAME):  # all of a long one, in several lines
            assert f"<!-- {line} -->" in written.replace("\u200b", "").replace(r"\$", "$")
    draw_curves([LoggedRun("x", ONE)], tmp_path / "c.pdf")
    assert (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")


def test_every_run_has_a_colour_of_its_own():
    assert len(set(run_colours(60))) == 60
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in run_colours(60))


def test_charts_tell_what_they_show():
    assert len({chart.title for chart in CHARTS}) == len(CHARTS)
    assert all(chart.curves() for chart in CHARTS)
    classifier = [{"epoch": 0, "test_acc1": 71.0, "test_acc5": 90.0, "train_loss": 2.0}]
    titles = [chart.title for chart in charts_of([LoggedRun("classifier", classifier)])]
    assert titles == ["top-1 accuracy, %", "top-5 accuracy, %", "sum of all losses (loss)"]
