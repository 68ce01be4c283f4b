"""Processes of a distributed run: who am I, start, and exchange between them.

Every function also works, without communication, when there is only one process.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from util.errors import CommonError, UserError, lack_of_resources
from util.launchers import (
    check_meeting_point,
    init_failure,
    number_in,
    place_in_run,
    store_of_this_start,
)
from util.lifeline import Lifeline
from util.stopping import Stopped
from util.text import one_line

_lifeline: Lifeline | None = None


def is_dist() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    return dist.get_world_size() if is_dist() else 1


def get_rank() -> int:
    return dist.get_rank() if is_dist() else 0


def is_main_process() -> bool:
    return get_rank() == 0


def print_main(*message: Any) -> None:
    """Print once a run, not once a process."""
    if is_main_process():
        print(*message, flush=True)


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one, else the CPU.

    In a distributed run each process of a machine gets a GPU of its own.

    Raises:
        UserError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: no such device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        index = number_in("LOCAL_RANK", 0) if device.index is None else device.index
        if index >= count:
            raise UserError(
                f"--device {name}: process needs GPU {index}, PyTorch sees {count} CUDA device(s); "
                "start fewer processes or use --device cpu"
            )
        return torch.device("cuda", index)
    if device.type != "cpu":
        raise UserError(f"--device {name}: only cpu and cuda are supported")
    return device


def init_distributed_mode(args: argparse.Namespace, device: torch.device) -> None:
    """Join the processes that torchrun, torch.distributed.launch or submitit started.

    Sets args.rank, args.world_size, args.gpu, args.distributed and args.dist_backend:
    NCCL between GPUs, gloo between CPUs. Without a launcher this is one process.

    Raises:
        UserError: what the launcher tells cannot be, or the processes do not meet.
    """
    args.rank, args.world_size = place_in_run()
    args.gpu = device.index if device.type == "cuda" else None
    args.distributed = "RANK" in os.environ
    if not args.distributed:
        return
    check_meeting_point(args.dist_url)
    args.dist_backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store = store_of_this_start(args.dist_url, args.rank, args.world_size)
        dist.init_process_group(
            args.dist_backend,
            args.dist_url if store is None else None,
            store=store,
            rank=args.rank,
            world_size=args.world_size,
        )
    except Exception as error:
        known = init_failure(error, args.dist_url)
        if known is None:
            raise
        raise known from error
    print_main(f"{args.world_size} processes over {args.dist_backend}")


def start_lifeline(dist_url: str) -> None:
    """Let processes notice when one of them dies; see `one_fate`."""
    host = urlsplit(dist_url).hostname or os.environ.get("MASTER_ADDR")
    if get_world_size() == 1 or not host:
        return
    global _lifeline
    problem = ""
    try:
        _lifeline = Lifeline(get_rank(), get_world_size(), host, broadcast_from_main)
    except OSError as error:
        problem = str(error)
    problem = next(filter(None, all_gather(problem)), "")
    if not problem:
        _lifeline.watch()
    else:
        _lifeline = None
        print_main(f"processes will not notice at once when one dies: {host}: {problem}")


@contextlib.contextmanager
def one_fate() -> Iterator[None]:
    """If this process fails in here, the others end as well; the first failure is shown.

    From `start_lifeline` on; before it, launchers have to notice.
    """
    try:
        yield
    except (CommonError, Stopped):  # raised by all
        _say_goodbye()
        raise
    except Exception as error:
        known = error if isinstance(error, UserError) else lack_of_resources(error)
        line = str(known or f"{type(error).__name__}: {error}").strip()
        first_line = one_line(next(iter(line.splitlines()), ""))
        if _lifeline is not None and not _lifeline.fail(first_line, surely_first=known is not None):
            raise SystemExit(1) from error
        raise
    else:
        _say_goodbye()


def _say_goodbye() -> None:
    global _lifeline
    if _lifeline is not None:
        _lifeline.close()
        _lifeline = None


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all processes (in place)."""
    if get_world_size() > 1:
        dist.all_reduce(values)
    return values


def all_reduce_max(values: torch.Tensor) -> torch.Tensor:
    """Largest of each element over all processes (in place)."""
    if get_world_size() > 1:
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def all_gather(value: Any) -> list[Any]:
    """The values of all processes in order of rank, on each of them."""
    if get_world_size() == 1:
        return [value]
    gathered = [None] * get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def gather_to_main(value: Any) -> list[Any] | None:
    """The values of all processes in order of rank, on the main process; None elsewhere."""
    if get_world_size() == 1:
        return [value]
    gathered = [None] * get_world_size() if is_main_process() else None
    dist.gather_object(value, gathered, dst=0)
    return gathered


def broadcast_from_main(value: Any) -> Any:
    """The main process's value, everywhere."""
    if get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    if get_world_size() > 1:
        dist.barrier()


def shut_down() -> None:
    """Leave the other processes in order; without this PyTorch warns at exit."""
    _say_goodbye()
    if is_dist():
        if dist.get_backend() == "gloo":
            # Its threads still let go of tensors, for which they need the interpreter's lock.
            # PyTorch 2.6 waits for the threads while it holds that lock: one run in six hung here.
            time.sleep(0.1)
        dist.destroy_process_group()
