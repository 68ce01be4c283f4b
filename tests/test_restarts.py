"""torchrun starts the processes of a run again, over the same store."""

import argparse
import contextlib
import os
import signal
import time

import pytest
import torch
from forks import end_of_child, start_child

from util import dist


@pytest.mark.timeout(60)  # one waits for ever where the other one failed
@pytest.mark.parametrize("late", [0, 1])
def test_what_an_earlier_start_left_is_not_read(late, monkeypatch):
    """Where the others listened before the restart nobody does: a late process was missed there."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    torchrun = {
        "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port), "WORLD_SIZE": "2",
    }  # fmt: skip
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)

    def join(rank: int, wait_s: float) -> tuple[int, int]:
        def work() -> int:
            os.environ["RANK"] = str(rank)
            time.sleep(wait_s)
            dist.init_distributed_mode(argparse.Namespace(dist_url="env://"), torch.device("cpu"))
            return 0 if dist.all_gather(10 + rank) == [10, 11] else 1

        return start_child(work)

    for wait_s in (0, 1):  # the restart is the second
        children = [join(rank, wait_s if rank == late else 0) for rank in (0, 1)]
        try:
            ends = [end_of_child(*child) for child in children]
        finally:
            for pid, _ in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert [code for code, _ in ends] == [0, 0], ends
