"""torchrun starts the processes of a run again, over the same store."""

import argparse
import os
import time

import pytest
import torch

from tests.helpers.two_processes import start_two
from util import distributed as dist


def meet(rank: int, late: int, wait_s: float) -> None:
    os.environ["RANK"] = str(rank)
    if rank == late:
        time.sleep(wait_s)
    dist.init_distributed_mode(argparse.Namespace(dist_url="env://"), torch.device("cpu"))
    assert dist.all_gather(10 + rank) == [10, 11]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("late", [0, 1])
def test_what_an_earlier_start_left_is_not_read(late, monkeypatch):
    """A late process must not connect to where the others listened before the restart."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    torchrun = {
        "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port), "WORLD_SIZE": "2",
    }  # fmt: skip
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    for wait_s in (0, 1):  # the restart is the second
        start_two(meet, late, wait_s)
