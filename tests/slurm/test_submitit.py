"""Commands that submit jobs, without Slurm: in this process, or by submitit's local executor."""

import sys
from pathlib import Path

import pytest

from slurm.job import import_program
from tests.classification.classifier_runs import TINY, draw_classes
from tests.helpers.commands import MAIN, ROOT, TINY_RUN, error_line, run_ok
from tests.helpers.runs import read_log
from util.checkpoint import load_checkpoint


@pytest.fixture(scope="session")
def colours(tmp_path_factory) -> Path:
    return draw_classes(tmp_path_factory.mktemp("job") / "colours")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detector", "classifier"])
def test_submitit_runs_the_same_program(task, shapes, colours, tmp_path):
    """Two gloo processes on this machine, as a Slurm job would start them."""
    training, folder = [*TINY_RUN, "--coco_path", shapes], ROOT
    if task == "classifier":
        pytest.importorskip("timm")
        # From its folder, as published: there is another main.py there.
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


def test_a_task_imports_this_projects_modules_from_any_folder(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "classification")
    monkeypatch.delitem(sys.modules, "main", raising=False)
    assert import_program("main").__file__ == MAIN
