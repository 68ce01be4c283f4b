"""A Slurm of two nodes, and a training job in it that nothing disturbs."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.helpers.commands import TINY_RUN
from tests.helpers.data import make_shapes
from tests.slurm.launched import EPOCHS, JOB, PROCESSES, Launched, followers
from tests.slurm.slurm_cluster import SlurmCluster, running_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[SlurmCluster]:
    with running_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running:
        yield running
    for process in followers:  # of tests that failed
        process.kill()


@pytest.fixture(scope="session")
def training(tmp_path_factory) -> list[str]:
    """Options of main.py: 4 epochs of 12 steps."""
    images = str(12 * PROCESSES)
    data = make_shapes(
        tmp_path_factory.mktemp("data") / "shapes", "--train", images, "--val", "4", "--size", "80"
    )
    return [
        *TINY_RUN, "--coco_path", str(data), "--batch_size", "1", "--epochs", str(EPOCHS),
        "--eval_every", "2",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def both(cluster, training, tmp_path_factory) -> tuple[Launched, Launched]:
    """A job that is left alone, and beside it one that reaches its time limit of a minute."""
    limited = Launched(
        cluster, tmp_path_factory.mktemp("limited"), *training, *JOB, "--timeout", "1"
    )
    undisturbed = Launched(cluster, tmp_path_factory.mktemp("undisturbed"), *training, *JOB)
    limited.wait_for_epoch(0)
    # Held, so that it is not done before the limit is near; Slurm wakes whom it gives a signal.
    for process in limited.processes().values():
        os.kill(process, signal.SIGSTOP)
    return undisturbed, limited


@pytest.fixture(scope="session")
def undisturbed(both) -> Launched:
    launched = both[0]
    launched.end()
    return launched
