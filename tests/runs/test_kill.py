"""Runs that are killed with SIGKILL again and again resume, and end as an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.commands import MAIN, TINY_RUN, run_ok
from tests.helpers.data import make_shapes
from tests.helpers.runs import assert_same_run, signal_all, start
from util.checkpoint import load_checkpoint

pytestmark = pytest.mark.kill

KILLS = int(os.environ.get("KILLS", "20"))
IN_A_WRITE = KILLS // 6  # at least so many of them while checkpoint.pth was being written
LIMIT_S = 120

# A checkpoint after each step, and validation long enough to be killed in.
RUN = [
    *TINY_RUN, "--epochs", "3", "--lr_drop", "2", "--batch_size", "2", "--lr", "1e-3",
    "--lr_backbone", "1e-3", "--checkpoint_every", "0.00001", "--dropout", "0.1",
    "--dec_rpe", "box-log-relation", "--warmup", "5",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "shapes"
    return make_shapes(out, "--train", "16", "--val", "24", "--size", "80", "--aspect", "1.5")


class Killer:
    """Starts a run over and over, and kills it at random moments, until it ends by itself."""

    def __init__(self, options: list[str], out: Path, seed: int):
        self.options = options
        self.out = out
        self.random = random.Random(seed)
        self.kills = self.in_a_write = 0
        self._part = out / ".checkpoint.pth.part"

    def until_finished(self) -> None:
        while True:
            self._part.unlink(missing_ok=True)  # of the last kill
            process = start(*self.options)
            wait = self._until_a_write if self.random.random() < 0.6 else self._until_some_time
            if not wait(process):
                _, said = process.communicate()
                assert process.returncode == 0, said
                return
            signal_all(process, "SIGKILL")
            _, said = process.communicate()
            if process.returncode == 0:  # it had come to its end before the signal came
                return
            assert process.returncode == -signal.SIGKILL, said
            self.kills += 1
            self.in_a_write += self._part.exists()
            self._check_what_is_left()

    def _until_a_write(self, process: subprocess.Popen) -> bool:
        """Wait until a checkpoint is being written for the n-th time, and a little longer."""
        part, end = self._part, time.monotonic() + LIMIT_S
        for _ in range(self.random.randint(2, 5)):
            for wanted in (True, False):
                while part.exists() != wanted and time.monotonic() < end:
                    if process.poll() is not None:
                        return False
                    time.sleep(0.001)
        while not part.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.0002)
        time.sleep(self.random.uniform(0, 0.03))
        return process.poll() is None

    def _until_some_time(self, process: subprocess.Popen) -> bool:
        """Wait for the first sign of life, then up to four seconds."""
        process.stdout.readline()
        try:
            process.wait(self.random.uniform(0.5, 4))
        except subprocess.TimeoutExpired:
            return True
        return False

    def _check_what_is_left(self) -> None:
        if (self.out / "checkpoint.pth").exists():
            load_checkpoint(str(self.out / "checkpoint.pth"))
        if (self.out / "log.txt").exists():
            whole = (self.out / "log.txt").read_text().split("\n")[:-1]
            epochs = [json.loads(line)["epoch"] for line in whole]
            assert epochs == sorted(set(epochs))


def test_runs_survive_being_killed(data, tmp_path):
    common = [MAIN, *RUN, "--coco_path", str(data)]
    run_ok(*common, "--output_dir", tmp_path / "undisturbed")

    def kill_one(number: int) -> Killer:
        out = tmp_path / str(number)
        workers = ["--num_workers", str(number % 2 * 2)]
        options = [*common, "--output_dir", str(out), "--resume", "auto", *workers]
        killer = Killer(options, out, seed=number)
        killer.until_finished()
        assert_same_run(out, tmp_path / "undisturbed")
        return killer

    killers, number = [], 0
    with ThreadPoolExecutor(2) as pool:
        while sum(killer.kills for killer in killers) < KILLS:
            killers += pool.map(kill_one, (number, number + 1))
            number += 2
    kills, in_a_write = (sum(getattr(k, n) for k in killers) for n in ("kills", "in_a_write"))
    print(
        f"\n{len(killers)} runs, {kills} kills, {in_a_write} of them inside the write of a "
        "checkpoint: all weights are those of the undisturbed run"
    )
    assert in_a_write >= IN_A_WRITE
