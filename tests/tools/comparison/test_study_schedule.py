"""What is started, in which order, here and as jobs; training itself is left out."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from slurm.status import JobStatus, SlurmUnreachable
from tests.helpers.tool_runs import line_of, run_tool
from tests.tools.comparison.made_studies import AP, made_row, write_run, write_study
from tools import compare
from tools.comparison import schedule
from tools.comparison.children import Children, StudyStopped
from tools.comparison.study import Study, read_study

ORDER = [("none", 1), ("box", 1), ("none", 2), ("box", 2), ("none", 3), ("box", 3)]


def after(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


@pytest.fixture
def started(monkeypatch, path, tmp_path):
    """Return the commands that were started; runs are written at once, with known numbers.

    `started.fails` holds (configuration, seed) of runs that fail, `started.stops` of one that is
    stopped by a signal.
    """

    class Started(list):
        fails = ()
        stops = None

        def names(self) -> list:
            return [
                (Path(after(command, "--output_dir")).parent.name, int(after(command, "--seed")))
                for command in self
            ]

    started = Started()

    def run(self, command, folder):
        started.append(command)
        if "--eval" in command:
            values = json.loads((folder.parents[1] / "log.txt").read_text().splitlines()[-1])
            size = int(after(command, "--image_size"))
            numbers = made_row(2, values["test_coco_eval_bbox"][0] - size / 1000)
            folder.mkdir(parents=True)
            (folder / "numbers.json").write_text(json.dumps({"of": values, "numbers": numbers}))
            return ""
        name = started.names()[-1]
        if name == started.stops:
            raise StudyStopped
        if name in started.fails:
            return "no data"
        if command[1].endswith("run_with_submitit.py"):
            (folder / "jobs" / str(100 + len(started))).mkdir(parents=True)
            return ""
        write_run(tmp_path / "out", read_study(path), *name, AP[name[0]][name[1]])
        return ""

    monkeypatch.setattr(Children, "run", run)
    monkeypatch.setattr(Study, "check_files", lambda self, root: None)
    return started


def test_all_configurations_of_a_seed_come_first_and_nothing_is_repeated(path, tmp_path, started):
    run = run_tool(compare, path, "--output_dir", tmp_path / "out")
    assert run.code == 0 and started.names() == ORDER
    first = started[1]
    assert first[:2] == [sys.executable, str(schedule.ROOT / "main.py")]
    assert first[2:] == [
        "--coco_path", "data", "--batch_size", "4", "--epochs", "3", "--dec_rpe", "box-log",
        "--seed", "1", "--output_dir", str(tmp_path / "out" / "box" / "seed_1"), "--resume", "auto",
    ]  # fmt: skip
    assert "better" in run.out and "6 of 6 runs finished" in run.err
    shutil.rmtree(tmp_path / "out" / "box" / "seed_2")
    again = run_tool(compare, path, "--output_dir", tmp_path / "out")
    assert started.names()[6:] == [("box", 2)] and again.out == run.out
    read = run_tool(compare, path, "--output_dir", tmp_path / "out", "--read_only")
    assert len(started) == 7 and read.out == run.out


def test_a_run_that_fails_does_not_stop_the_others(path, tmp_path, started):
    started.fails = [("box", 1)]
    run = run_tool(compare, path, "--output_dir", tmp_path / "out")
    assert run.code == 1 and started.names() == ORDER
    assert "note: box, seed 1: not started; not in the table" in run.out
    assert run.err.splitlines()[-1] == (
        "error: 1 failed; the same command tries again: box, seed 1: no data"
    )
    started.fails = []
    assert run_tool(compare, path, "--output_dir", tmp_path / "out").code == 0
    assert started.names()[6:] == [("box", 1)]


def test_a_study_that_is_stopped_says_how_to_go_on(path, tmp_path, started):
    started.stops = ("none", 2)
    run = run_tool(compare, path, "--output_dir", tmp_path / "out")
    assert run.code == 75 and run.out == "" and started.names() == ORDER[:3]
    assert run.err.splitlines()[-1] == "stopped: the same command goes on from here"


def test_a_run_with_other_options_is_refused_before_anything_is_started(path, tmp_path, started):
    write_run(tmp_path / "out", read_study(path), "box", 3, (0.1,), lr=0.5)
    said = line_of(compare, path, "--output_dir", tmp_path / "out")
    assert "lr is 0.5 there and 0.0001 in the study" in said and not started


def test_finished_runs_are_evaluated_at_other_sizes(tmp_path, started):
    path = write_study(tmp_path, ("thresholds = [0.5]", "image_sizes = [64, 100]"))
    root = tmp_path / "out"
    run = run_tool(compare, path, "--output_dir", root)
    assert run.code == 0 and len(started) == 18
    assert ["--eval" in command for command in started[:4]] == [False, True, True, False]
    words = " ".join(started[1])
    assert " --image_size 64 --eval " in words and f" {root}/none/seed_1/checkpoint.pth " in words
    lines = run.out.splitlines()
    last = [[cell.strip() for cell in line.split("  ") if cell][-2:] for line in lines[3:6]]
    assert last == [
        ["at size 64", "at size 100"],
        ["0.4560", "0.4200"],
        ["0.5560 (+0.1000)", "0.5200 (+0.1000)"],
    ]
    # An evaluation of a run that is there no more does not count.
    shutil.rmtree(root / "box" / "seed_1")
    write_run(root, read_study(path), "box", 1, (0.1, 0.2, 0.3))
    stale = root / "box" / "seed_1" / "evaluated" / "size_64"
    shutil.copytree(root / "box" / "seed_2" / "evaluated" / "size_64", stale)
    run = run_tool(compare, path, "--output_dir", root, "--read_only")
    assert "note: box, seed 1: has no number AP of boxes at size 64; left out" in run.out
    (stale / "numbers.json").write_text("{")
    said = line_of(compare, path, "--output_dir", root, "--read_only")
    assert f"{stale / 'numbers.json'}: is damaged" in said


# ---- jobs ----


@pytest.fixture
def states(monkeypatch):
    """Return what Slurm says of jobs, by their ids."""
    states = {}

    def status(job):
        if isinstance(states.get(job), Exception):
            raise states[job]
        return states[job] and JobStatus(states[job])

    monkeypatch.setattr(schedule, "job_status", status)
    return states


def test_jobs_are_submitted_for_what_is_missing(path, tmp_path, started, states):
    root = tmp_path / "out"
    write_run(root, read_study(path), "box", 2, AP["box"][2])
    options = ["--slurm", "--ngpus", "1", "--nodes", "1"]
    command = [path, "--output_dir", root, *options, "--timeout", "600"]
    run = run_tool(compare, *command)
    missing = [name for name in ORDER if name != ("box", 2)]
    assert run.code == 0 and started.names() == missing
    folder = str(root / "none" / "seed_1")
    assert started[0][1:7] == [
        str(schedule.ROOT / "run_with_submitit.py"), "--job_dir", f"{folder}/jobs/%j",
        "--ngpus=1", "--nodes=1", "--timeout=600",
    ]  # fmt: skip
    assert started[0][-4:] == ["--output_dir", folder, "--resume", "auto"]
    assert "none, seed 1: submitted job 101" in run.err
    assert "note: none, seed 1: not started; not in the table" in run.out
    # Running and waiting jobs are left alone; one that failed or that nobody knows begins again.
    states |= {"101": "RUNNING", "102": "FAILED", "103": "PENDING", "104": None, "105": "REQUEUED"}
    run = run_tool(compare, *command)
    assert started.names()[5:] == [("box", 1), ("none", 3)]
    assert "none, seed 1: job 101 is RUNNING" in run.err
    assert "box, seed 1: job 102 has ended as FAILED; submitted job 106" in run.err
    states["101"] = SlurmUnreachable("no answer")
    assert "Slurm does not say whether job 101 is running (no answer)" in line_of(compare, *command)


@pytest.mark.parametrize(
    ("options", "count"),
    [([], 16), (["--nodes", "3"], 24), (["--ngpus", "0"], 2), (["--tasks_per_node", "5"], 10),
     (["--cluster", "local", "--ngpus", "3"], 3)],
)  # fmt: skip
def test_no_run_is_trained_in_other_processes(path, tmp_path, started, states, options, count):
    """Or the table would be refused from then on; what can be evaluated is."""
    path = write_study(tmp_path, ("thresholds = [0.5]", "image_sizes = [64]"))
    root = tmp_path / "out"
    write_run(root, read_study(path), "none", 1, AP["none"][1], world_size=8)
    run = run_tool(compare, path, "--output_dir", root)
    assert run.code == 1 and [("--eval" in command) for command in started] == [True]
    assert "box, seed 1: is not trained in 1 process(es), since the runs that" in run.err
    said = line_of(compare, path, "--output_dir", root, "--slurm", *options)
    assert f"is not trained in {count} process(es), since the runs that are there had 8" in said
    assert len(started) == 1
    for name, seed in ORDER[1:]:
        write_run(root, read_study(path), name, seed, AP[name][seed], world_size=8)
    run = run_tool(compare, path, "--output_dir", root, "--slurm", *options)
    assert run.code == 0 and all("--eval" in command for command in started)


def test_the_newest_job_is_the_last_one(tmp_path):
    """A process of --cluster local may have a larger number than Slurm's next job."""
    for number, name in enumerate(("32713", "105", "names")):
        (tmp_path / "jobs" / name).mkdir(parents=True)
        os.utime(tmp_path / "jobs" / name, (number, number))
    assert schedule.newest_job(tmp_path) == "105"
    assert schedule.newest_job(tmp_path / "nowhere") is None


def test_a_metric_that_no_log_has_ends_with_the_first_run(tmp_path, started):
    path = write_study(tmp_path, ("thresholds", 'metric = "test_coco_eval_bbox_AP5O"\nthresholds'))
    run = run_tool(compare, path, "--output_dir", tmp_path / "out")
    said = run.err.splitlines()[-1]
    assert run.code == 1 and "metric test_coco_eval_bbox_AP5O is in no log; there are: " in said
    assert started.names() == ORDER[:1]


def test_a_job_that_cannot_be_submitted_is_said(path, tmp_path, started, states):
    started.fails = [("none", 1)]
    run = run_tool(compare, path, "--output_dir", tmp_path / "out", "--slurm")
    assert run.code == 1 and len(started) == 6
    assert run.err.splitlines()[-1].endswith("tries again: none, seed 1: no data")
