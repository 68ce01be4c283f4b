"""What launchers tell the processes they start, in the words of torchrun."""

import os
import secrets
import socket
import subprocess
import time
from urllib.parse import urlsplit

import torch
from torch.distributed import Store

from util.errors import UserError
from util.text import one_line, shorten

LARGEST_PORT = 65535
RESOLVE_S = 60  # names of hosts may come up later than the hosts
FIRST_PORT, PORTS = 20000, 12000  # below the ports that systems give away


def number_in(name: str, default: int | None = None, least: int = 0, most: int = 2**31) -> int:
    """A whole number in an environment variable.

    Raises:
        UserError: it is something else, or there is none and no default.
    """
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        number = int(text or "")
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        is_what = "not set" if text is None else shorten(repr(text), 100)
        raise UserError(
            f"environment variable {name} is {is_what}, must be a whole number from {least} to "
            f"{most}; torchrun sets it"
        )
    return number


def place_in_run() -> tuple[int, int]:
    """Rank and number of processes, as a launcher tells them; 0 and 1 without one.

    Raises:
        UserError: they cannot be.
    """
    if "RANK" not in os.environ:
        return 0, 1
    world_size = number_in("WORLD_SIZE", least=1)
    return number_in("RANK", most=world_size - 1), world_size


def check_meeting_point(dist_url: str) -> None:
    """Raise a UserError where the processes of a run cannot meet, as far as this one can tell."""
    try:
        parts = urlsplit(dist_url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"--dist_url {dist_url}: {error}") from error
    if parts.scheme == "file" and parts.path:
        return
    if parts.scheme == "env":
        source = "environment variable MASTER_ADDR"
        host, port = os.environ.get("MASTER_ADDR"), number_in("MASTER_PORT", most=LARGEST_PORT)
        if not host:
            raise UserError(f"{source} is not set, must be the host of process 0; torchrun sets it")
    elif parts.scheme == "tcp" and host and port is not None:
        source = "--dist_url"
    else:
        raise UserError(f"--dist_url {dist_url}: must be env://, tcp://HOST:PORT or file:///PATH")
    end = time.monotonic() + RESOLVE_S
    while True:
        try:
            socket.getaddrinfo(host, port)
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() >= end:
                raise UserError(f"{source} {host}: no such host ({error})") from error
        time.sleep(1)


def init_failure(error: Exception, dist_url: str) -> UserError | None:
    """A UserError of an exception that says that processes cannot meet; None of others."""
    text = str(error)
    if "EADDRINUSE" in text or "address already in use" in text.lower():
        port = os.environ.get("MASTER_PORT") if dist_url.startswith("env") else dist_url
        return UserError(
            f"another program uses the port where the processes meet ({port}); take another "
            "MASTER_PORT, torchrun --master_port"
        )
    if isinstance(error, torch.distributed.DistError | ValueError | TimeoutError):
        return UserError(
            f"the processes of the run do not meet: {one_line(text, 300)}; look at MASTER_ADDR, "
            "MASTER_PORT, WORLD_SIZE and RANK"
        )
    return None


def store_of_this_start(dist_url: str, rank: int, world_size: int) -> Store | None:
    """The store over which the processes meet, without what an earlier start left in it.

    torchrun keeps one store over its restarts (`--max_restarts`) unless it meets through c10d. A
    process that is early reads where another one listened before the restart, and finds nobody
    there (pytorch issue 135712). Its count of restarts is no help: nodes may count differently.

    So the main process answers each process's own number with that of this start. It may answer
    one that is left from before, and goes on until each has taken the answer.

    Returns:
        None if torchrun has no store for them, so that PyTorch makes a new one.
    """
    if not dist_url.startswith("env:") or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    store, _, _ = next(torch.distributed.rendezvous(dist_url, rank, world_size))
    own = secrets.token_hex(8)
    if rank != 0:
        store.set(f"here/{rank}", own)
        start = store.get(f"start/{own}").decode()
        store.set(f"{start}/joined/{rank}", "")
        return torch.distributed.PrefixStore(start, store)
    missing, end = set(range(1, world_size)), time.monotonic() + store.timeout.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"here/{other}"]):
                store.set(f"start/{store.get(f'here/{other}').decode()}", own)
            if store.check([f"{own}/joined/{other}"]):
                missing.remove(other)
        if time.monotonic() > end:
            raise TimeoutError(f"processes {sorted(missing)} have not come")
        time.sleep(0.05)
    return torch.distributed.PrefixStore(own, store)


def adopt_srun() -> None:
    """Let the tasks of a plain `srun python main.py` be the processes of one run.

    Sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT as torchrun would, unless a
    launcher has set RANK, or srun started one task alone. (A batch script is no task of srun's.)

    Raises:
        UserError: Slurm does not tell where its tasks are.
    """
    tasks = number_in("SLURM_STEP_NUM_TASKS", 1)
    if "RANK" in os.environ or "SLURM_PROCID" not in os.environ or tasks == 1:
        return
    nodes = os.environ.get("SLURM_STEP_NODELIST", "")
    try:
        listed = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"Slurm started {tasks} tasks on {nodes or 'unknown nodes'}, but scontrol does not "
            "name their hosts; set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
        ) from error
    # Jobs that share a node need ports of their own; all tasks of a step must find the same.
    step = number_in("SLURM_JOB_ID") * 31 + number_in("SLURM_STEP_ID")
    # With --gpus-per-task each task sees its own GPU alone, as number 0.
    own_gpu = torch.cuda.device_count() == 1
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = str(tasks)
    os.environ["LOCAL_RANK"] = "0" if own_gpu else str(number_in("SLURM_LOCALID"))
    os.environ.setdefault("MASTER_ADDR", listed.stdout.split()[0])
    os.environ.setdefault("MASTER_PORT", str(FIRST_PORT + step % PORTS))
