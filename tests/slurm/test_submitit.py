"""run_with_submitit.py without Slurm: submitit's local executor starts the processes."""

from pathlib import Path

import pytest

from tests.helpers.commands import TINY_RUN, error_line, run_ok
from tests.helpers.runs import read_log
from util.checkpoint import load_checkpoint


@pytest.mark.slow
def test_submitit_runs_the_same_program(shapes, tmp_path):
    """Two gloo processes on this machine, as a Slurm job would start them."""
    result = run_ok(
        "run_with_submitit.py", *TINY_RUN, "--coco_path", shapes, "--epochs", "1", "--ngpus", "0",
        "--tasks_per_node", "2", "--nodes", "1", "--timeout", "5", "--cpus_per_task", "1",
        "--job_dir", tmp_path / "jobs" / "%j", "--cluster", "local",
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
