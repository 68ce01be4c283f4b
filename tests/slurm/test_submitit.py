"""Commands that submit jobs, without Slurm: in this process, or by submitit's local executor."""

import sys
from pathlib import Path

import pytest

from classification import run_with_submitit
from slurm.job import import_program
from tests.classification.classifier_runs import TINY, draw_classes, run_here
from tests.helpers.commands import MAIN, ROOT, TINY_RUN, error_line, run_ok
from tests.helpers.runs import assert_same_run, read_log
from util.checkpoint import load_checkpoint
from util.errors import UserError


@pytest.fixture(scope="session")
def colours(tmp_path_factory) -> Path:
    return draw_classes(tmp_path_factory.mktemp("job") / "colours")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detector", "classifier"])
def test_submitit_runs_the_same_program(task, shapes, colours, tmp_path):
    """Two gloo processes on this machine, as a Slurm job would start them."""
    training, folder = [*TINY_RUN, "--coco_path", shapes], ROOT
    if task == "classifier":  # from its folder, as published: there is another main.py there
        training, folder = [*TINY, "--data-path", colours], ROOT / "classification"
    result = run_ok(
        folder / "run_with_submitit.py", *training, "--epochs", "1", "--ngpus", "0",
        "--tasks_per_node", "2", "--nodes", "1", "--timeout", "5", "--cpus_per_task", "1",
        "--job_dir", tmp_path / "jobs" / "%j", "--cluster", "local", cwd=folder,
    )  # fmt: skip
    assert "Submitted job" in result.stdout
    # Without --output_dir everything is in the folder of the job.
    (folder,) = (path.parent for path in (tmp_path / "jobs").glob("*/log.txt"))
    assert "%j" not in str(folder)
    assert [epoch["epoch"] for epoch in read_log(folder)] == [0]
    assert load_checkpoint(str(folder / "checkpoint.pth"))["epoch"] == 0
    logs = "".join(path.read_text() for path in (tmp_path / "jobs").rglob("*.out"))
    assert "2 processes over gloo" in logs


@pytest.mark.slow
def test_a_failed_job_names_its_log(shapes, tmp_path):
    line = error_line(
        "run_with_submitit.py", *TINY_RUN, "--coco_path", shapes, "--batch_size", "100",
        "--ngpus", "0", "--nodes", "1", "--timeout", "5", "--cpus_per_task", "1", "--job_dir",
        tmp_path / "jobs", "--cluster", "local",
    )  # fmt: skip
    log = Path(line.rsplit("its log: ", 1)[1])
    assert "do not fill one batch" in log.read_text()


def submit_classifier(monkeypatch, *options: object) -> None:
    """Call the classifier's command in this process."""
    monkeypatch.setattr("sys.argv", ["x", *TINY, *map(str, options)])
    run_with_submitit.submit()


def test_a_classifiers_job_is_the_run_itself(colours, tmp_path, monkeypatch):
    training = ["--data-path", colours, "--epochs", 1]
    job = ["--cluster", "debug", "--job_dir", tmp_path / "%j"]
    submit_classifier(monkeypatch, *training, *job)
    run_here(colours, "--epochs", 1, "--output_dir", tmp_path / "alone")
    assert_same_run(tmp_path / "debug", tmp_path / "alone")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"job": "deit", "ngpus": 8, "nodes": 2, "timeout": 2800, "constraint": None}),
        (
            ["--nodes", 4, "--timeout", 60, "--use_volta32", "--comment", "words"],
            {"nodes": 4, "timeout": 60, "constraint": "volta32gb", "comment": "words"},
        ),
    ],
)
def test_published_options_of_a_classifiers_job(colours, tmp_path, monkeypatch, options, expected):
    seen = {}

    def build_executor(args, name):
        seen.update(vars(args), job=name)
        raise UserError("not submitted")

    monkeypatch.setattr("slurm.submit.build_executor", build_executor)
    monkeypatch.setattr("shutil.which", lambda name: name)
    with pytest.raises(UserError, match="not submitted"):
        submit_classifier(
            monkeypatch, "--data-path", colours, "--job_dir", tmp_path / "%j", *options
        )
    assert {name: seen[name] for name in expected} == expected


def test_a_classifiers_options_are_checked_before_a_job_is_submitted(monkeypatch):
    with pytest.raises(UserError, match="/nowhere: no such folder"):
        submit_classifier(monkeypatch, "--data-path", "/nowhere")


def test_a_task_imports_this_projects_modules_from_any_folder(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "classification")
    monkeypatch.delitem(sys.modules, "main", raising=False)
    assert import_program("main").__file__ == MAIN
