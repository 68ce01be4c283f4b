"""The processes of a distributed run: their start, their end and exchange between them.

Every function also works, without communication, if there is only one process.
"""

import argparse
import atexit
import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from util.errors import CommonError, UserError, one_line, resource_error
from util.launchers import (
    check_dist_url,
    env_int,
    fresh_store,
    rank_and_world_size,
    rendezvous_error,
)
from util.signals import Stopped
from util.watchdog import PeerWatchdog

# PyTorch's own is 10 minutes between GPUs, and the others wait while the main process downloads
# weights, lists a large archive or scores. That one of them died is noticed by the watchdog.
TIMEOUT = timedelta(hours=2)

_watchdog: PeerWatchdog | None = None


def is_dist_avail_and_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    return dist.get_world_size() if is_dist_avail_and_initialized() else 1


def get_rank() -> int:
    return dist.get_rank() if is_dist_avail_and_initialized() else 0


def is_main_process() -> bool:
    return get_rank() == 0


def print_main(*message: Any) -> None:
    """Print on the main process only."""
    if is_main_process():
        print(*message, flush=True)


def pick_device(name: str | torch.device, option: str = "--device") -> torch.device:
    """Return the device called `name`; "auto" is CUDA if this machine has it, else the CPU.

    In a distributed run each process of a machine gets a GPU of its own.

    Args:
        name: As users give it.
        option: What they gave it to, for messages.

    Raises:
        UserError: This machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise UserError(f"{option} {name}: no such device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        index = env_int("LOCAL_RANK", 0) if device.index is None else device.index
        if count == 0:
            raise UserError(f"{option} {name}: PyTorch sees no GPU on this machine; use cpu")
        if index >= count:
            way_out = "start fewer processes" if device.index is None else f"use cuda:{count - 1}"
            raise UserError(
                f"{option} {name}: process needs GPU {index}, PyTorch sees {count} CUDA device(s), "
                f"and the first is number 0; {way_out}, or use cpu"
            )
        return torch.device("cuda", index)
    if device.type != "cpu":
        raise UserError(f"{option} {name}: only cpu and cuda are supported")
    return device


def check_gpu_of_each(name: str) -> None:
    """Raise a UserError if `name` is one GPU, while several processes of the run are here.

    All would compute on it, and NCCL refuses that with a message about duplicate GPUs.
    """
    launched = "RANK" in os.environ
    # Not every launcher tells the number; a process that is not the first one is not alone.
    processes = env_int("LOCAL_WORLD_SIZE", env_int("LOCAL_RANK", 0) + 1) if launched else 1
    if processes > 1 and re.fullmatch(r"cuda:\d+", name):
        raise UserError(
            f"--device {name}: the run has {processes} or more processes on this machine, and each "
            "needs a GPU of its own; use --device cuda"
        )


def init_distributed_mode(args: argparse.Namespace, device: torch.device | None = None) -> None:
    """Join the processes that torchrun, torch.distributed.launch, srun or submitit started.

    A GPU becomes the current one of this process, launched or not: what names no GPU, such as an
    event or a thread that pins memory, would use GPU 0 otherwise.

    As DETR's function of this name, it sets in `args`:
        distributed: True if a launcher started this process.
        rank, world_size: 0 and 1 without a launcher.
        gpu: Index of this process's GPU; None on a CPU.
        dist_backend: "nccl" between GPUs, "gloo" between CPUs; only in a distributed run.

    Args:
        args: `dist_url` is where the processes meet, `device` is read if no device is given.
        device: This process's device; a GPU with its index, as `pick_device` returns it.

    Raises:
        UserError: The launcher's variables are not valid, or the processes do not meet.
    """
    device = device or pick_device(args.device)
    args.rank, args.world_size = rank_and_world_size()
    args.gpu = device.index if device.type == "cuda" else None
    args.distributed = "RANK" in os.environ
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not args.distributed:
        return
    check_dist_url(args.dist_url)
    args.dist_backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        store = fresh_store(args.dist_url, args.rank, args.world_size)
        dist.init_process_group(
            args.dist_backend,
            args.dist_url if store is None else None,
            timeout=TIMEOUT,
            store=store,
            rank=args.rank,
            world_size=args.world_size,
            # Without it, PyTorch guesses the GPU for a barrier, and warns of that.
            device_id=device if device.type == "cuda" else None,
        )
    except Exception as error:
        known = rendezvous_error(error, args.dist_url)
        if known is None:
            raise
        raise known from error
    print_main(f"{args.world_size} processes over {args.dist_backend}")


def start_watchdog(dist_url: str) -> None:
    """Let the processes notice when one of them dies or hangs; see `abort_together`."""
    host = urlsplit(dist_url).hostname or os.environ.get("MASTER_ADDR")
    if get_world_size() == 1 or not host:
        return
    global _watchdog
    watchdog = PeerWatchdog(get_rank(), get_world_size())
    address = broadcast_from_main(watchdog.listen() if is_main_process() else None)
    problem = ""
    if not is_main_process():
        try:
            watchdog.connect(host, *address)
        except OSError as error:
            problem = str(error)
    problem = next(filter(None, all_gather(problem)), "")
    if problem:
        watchdog.close()
        print_main(f"processes will not notice at once when one dies: {host}: {problem}")
    else:
        _watchdog = watchdog


@contextlib.contextmanager
def abort_together() -> Iterator[None]:
    """If this process fails in here, end the other processes too; the first failure is shown.

    Works from `start_watchdog` on; before it, the launcher has to notice.
    """
    try:
        yield
    except (CommonError, Stopped):  # raised by all processes
        _close_watchdog()
        raise
    except Exception as error:
        known = error if isinstance(error, UserError) else resource_error(error)
        text = str(known or f"{type(error).__name__}: {error}").strip()
        line = one_line(next(iter(text.splitlines()), ""))
        surely_first = known is not None  # other errors may come from a peer that has gone
        if _watchdog is not None:
            atexit.register(_end_at_once)
            if not _watchdog.report_failure(line, surely_first):
                raise SystemExit(1) from error
        raise
    else:
        _close_watchdog()


def _end_at_once() -> None:
    """End this process, which has failed, without the interpreter's finalization.

    gloo's threads may still release tensors of operations that failed, for which they need the
    interpreter's lock. Finalization unwinds a thread that waits for it, and C++ then aborts: an
    exit code of -6 in place of 1.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _close_watchdog() -> None:
    global _watchdog
    if _watchdog is not None:
        _watchdog.close()
        _watchdog = None


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all processes, in place."""
    if get_world_size() > 1:
        dist.all_reduce(values)
    return values


def all_reduce_max(values: torch.Tensor) -> torch.Tensor:
    """Take the largest value of each element over all processes, in place."""
    if get_world_size() > 1:
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def all_gather(data: Any) -> list[Any]:
    """Return, on each process, what all processes gave, in order of rank.

    Args:
        data: Any object that can be pickled.
    """
    if get_world_size() == 1:
        return [data]
    gathered = [None] * get_world_size()
    dist.all_gather_object(gathered, data)
    return gathered


def gather_to_main(data: Any) -> list[Any] | None:
    """Return what all processes gave, in order of rank, on the main process; None elsewhere."""
    if get_world_size() == 1:
        return [data]
    gathered = [None] * get_world_size() if is_main_process() else None
    dist.gather_object(data, gathered, dst=0)
    return gathered


def broadcast_from_main(data: Any) -> Any:
    """Return, on each process, what the main process gave."""
    if get_world_size() == 1:
        return data
    box = [data]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    if get_world_size() > 1:
        dist.barrier()


def shut_down() -> None:
    """Leave the process group; PyTorch warns at exit otherwise."""
    _close_watchdog()
    if is_dist_avail_and_initialized():
        if dist.get_backend() == "gloo":
            # gloo's threads still release tensors, for which they need the interpreter's lock.
            # PyTorch 2.6 waits for these threads while it holds that lock: without a pause, one
            # run in six hung here.
            time.sleep(0.1)
        dist.destroy_process_group()
