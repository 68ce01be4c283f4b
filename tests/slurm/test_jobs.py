"""Jobs of run_with_submitit.py in a real Slurm of two nodes; each stop ends in the same weights.

Each node runs one process; SLURM_TASKS_PER_NODE=2 (make nightly) runs two.
"""

import os
import signal
import time
from pathlib import Path

import pytest

from slurm.follow import JobFollower
from slurm.status import job_status
from tests.classification.classifier_runs import TINY, draw_classes
from tests.helpers.commands import TINY_RUN, error_line
from tests.helpers.data import make_shapes
from tests.slurm.launched import (
    CLASSIFIER,
    EPOCHS,
    JOB,
    PROCESSES,
    Launched,
    check_requeued,
    epochs_of,
    preempt,
)
from tests.slurm.slurm_cluster import needs_slurm, running_cluster

pytestmark = needs_slurm


def test_a_job_left_alone(undisturbed):
    shown = undisturbed.shown.read_text()
    assert undisturbed.process.returncode == 0, undisturbed.errors.read_text() + shown
    assert undisturbed.cluster.state(undisturbed.job) == "COMPLETED"
    assert undisturbed.cluster.restarts(undisturbed.job) == 0
    facts = undisturbed.cluster.facts(undisturbed.job)
    assert (facts["Comment"], facts["Partition"], facts["NumCPUs"]) == (
        "tests",
        "debug",
        str(PROCESSES),
    )
    assert facts["MinMemoryNode"] == "1.50G"
    assert f"{PROCESSES} processes over gloo" in shown
    assert f"-- job {undisturbed.job}: running on 127.0.0.[1-2]" in shown
    ended = [f"\nepoch {n + 1}/{EPOCHS}  " in shown for n in range(EPOCHS)]
    assert ended == [True] * EPOCHS
    assert epochs_of(undisturbed.folder) == list(range(EPOCHS))


def test_the_time_limit_of_a_job(both):
    undisturbed, limited = both
    undisturbed.end()
    check_requeued(limited, undisturbed)


@pytest.mark.nightly
def test_a_signal_of_a_user(cluster, training, undisturbed, tmp_path):
    launched = Launched(cluster, tmp_path, *training, *JOB)
    launched.wait_for_epoch(0)
    cluster.call("scancel", "--signal=USR2", launched.job)
    check_requeued(launched, undisturbed)


def test_preemption(cluster, training, undisturbed, tmp_path):
    launched = Launched(cluster, tmp_path, *training, *JOB)
    launched.wait_for_epoch(0)
    preempt(cluster)
    check_requeued(launched, undisturbed)


@pytest.mark.nightly
def test_preemption_by_sigterm(training, undisturbed, tmp_path):
    """Slurm's default: jobs are not sent the signal that they asked for."""
    with running_cluster(tmp_path / "cluster", user_signal=False) as cluster:
        launched = Launched(cluster, tmp_path, *training, *JOB)
        launched.wait_for_epoch(0)
        preempt(cluster)
        check_requeued(launched, undisturbed)


def test_a_classifiers_job_goes_on_after_a_requeue(cluster, tmp_path):
    """Beside it a job that is left alone: both end with the same weights."""
    pytest.importorskip("timm")
    data = draw_classes(tmp_path / "colours", train=96)
    training = [
        *TINY, "--data-path", str(data), "--batch-size", "2", "--no-repeated-aug",
        "--epochs", str(EPOCHS),
    ]  # fmt: skip
    for name in ("alone", "stopped"):
        (tmp_path / name).mkdir()
    stopped, alone = (
        Launched(cluster, tmp_path / name, *training, *JOB, command=CLASSIFIER)
        for name in ("stopped", "alone")
    )
    stopped.wait_for_epoch(0)
    cluster.call("scancel", "--signal=USR2", stopped.job)
    assert cluster.facts(stopped.job)["JobName"] == "deit"
    alone.end()
    assert cluster.restarts(alone.job) == 0
    check_requeued(stopped, alone)


def test_a_killed_task_ends_the_job(cluster, training, tmp_path):
    launched = Launched(cluster, tmp_path, *training, *JOB)
    launched.wait_for_epoch(0)
    start = time.monotonic()
    other_node = PROCESSES // 2
    os.kill(launched.processes()[other_node], signal.SIGKILL)
    line = launched.error()
    assert time.monotonic() - start < 60
    assert f"job {launched.job} ended as FAILED (task {other_node}: Killed)" in line
    assert line.endswith(f"its log: {launched.folder}/{launched.job}_{other_node}_log.err")
    assert cluster.restarts(launched.job) == 0


def test_an_error_of_one_task_ends_the_job(cluster, tmp_path):
    """An image that only one process reads is broken; its log says so."""
    data = make_shapes(tmp_path / "shapes", "--train", "64", "--val", "4", "--size", "80")
    image = sorted((data / "train2017").iterdir())[0]
    image.write_bytes(image.read_bytes()[:100])
    launched = Launched(
        cluster, tmp_path, *TINY_RUN, "--coco_path", str(data), "--batch_size", "1", *JOB
    )
    line = launched.error()
    assert f"job {launched.job} ended as FAILED (task " in line
    assert cluster.state(launched.job) == "FAILED"
    assert image.name in Path(line.rpartition("its log: ")[2]).read_text()


def test_a_cancelled_job_is_not_queued_again(cluster, training, tmp_path):
    launched = Launched(cluster, tmp_path, *training, *JOB)
    launched.wait_for_epoch(0)
    cluster.call("scancel", launched.job)
    assert "ended as CANCELLED" in launched.error()
    time.sleep(2)
    assert cluster.state(launched.job) == "CANCELLED"
    assert cluster.restarts(launched.job) == 0
    assert not launched.processes()
    assert (launched.folder / "checkpoint.pth").is_file()


def test_a_follower_that_is_interrupted_leaves_the_job_alone(cluster, training, tmp_path):
    launched = Launched(cluster, tmp_path, *training, *JOB, "--epochs", "1000")
    launched.wait_for_epoch(0)
    launched.process.send_signal(signal.SIGINT)
    shown = launched.end()
    assert launched.process.returncode == 130
    assert launched.errors.read_text() == ""
    assert f"job {launched.job} continues" in shown
    assert cluster.state(launched.job) == "RUNNING"
    cluster.call("scancel", launched.job)
    cluster.wait_until_over(launched.job)


def test_a_job_that_slurm_refuses(cluster, training, tmp_path):
    line = error_line(
        "run_with_submitit.py", *training, *JOB, "--partition", "nowhere",
        "--job_dir", tmp_path / "%j", env=cluster.env,
    )  # fmt: skip
    assert "Slurm refuses the job" in line and "partition" in line


def test_slurm_does_not_know_a_job(cluster, monkeypatch):
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    assert job_status("999999") is None
    assert JobFollower("999999", []).follow() == "UNKNOWN"
