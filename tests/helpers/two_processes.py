"""Two processes that talk over gloo, forked from the test: no port, no second import of PyTorch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def start_two(function: Callable, *arguments: Any) -> None:
    """Call function(rank, *arguments) in both; it stands at the top of its module.

    When one fails the other one is ended, and the failure is raised here.
    """
    # CUDA cannot be used after a fork.
    method = "spawn" if torch.cuda.is_available() else "fork"
    torch.multiprocessing.start_processes(function, arguments, nprocs=2, start_method=method)


def _as_rank(rank: int, function: Callable, folder: Path, arguments: tuple) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    torch.save(function(rank, *arguments), folder / f"{rank}.pth")
    torch.distributed.destroy_process_group()


def in_two_processes(function: Callable, folder: Path, *arguments: Any) -> list[Any]:
    """What function(rank, *arguments) gave in each of them; it stands at the top of its module.

    Args:
        folder: of this call alone.
    """
    start_two(_as_rank, function, folder, arguments)
    return [torch.load(folder / f"{rank}.pth", weights_only=False) for rank in range(2)]
