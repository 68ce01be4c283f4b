"""Jobs of the classifier without Slurm: options, and what a job is given."""

from pathlib import Path

import pytest

pytest.importorskip("timm")

from classification import run_with_submitit
from tests.classification.classifier_runs import TINY, draw_classes, run_here
from tests.helpers.runs import assert_same_run
from util.errors import UserError


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Path:
    return draw_classes(tmp_path_factory.mktemp("job") / "colours")


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
