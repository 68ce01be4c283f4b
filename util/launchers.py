"""The environment that torchrun, srun and submitit give to the processes of a distributed run."""

import os
import secrets
import socket
import subprocess
import time
from urllib.parse import urlsplit

import torch
from torch.distributed import PrefixStore, Store

from util.errors import UserError, one_line, truncate

MAX_PORT = 65535
RESOLVE_S = 60  # host names may become known later than their processes start
FIRST_PORT, PORTS = 20000, 12000  # below the range from which systems give ports away


def env_int(name: str, default: int | None = None, low: int = 0, high: int = 2**31) -> int:
    """Return the whole number in an environment variable.

    Raises:
        UserError: It is something else, or is not set and there is no default.
    """
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        number = int(text or "")
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        found = "not set" if text is None else truncate(repr(text), 100)
        raise UserError(
            f"environment variable {name} is {found}, must be a whole number from {low} to "
            f"{high}; torchrun sets it"
        )
    return number


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes; (0, 1) without a launcher.

    Raises:
        UserError: The launcher's variables are not set, or are not valid.
    """
    if "RANK" not in os.environ:
        return 0, 1
    world_size = env_int("WORLD_SIZE", low=1)
    return env_int("RANK", high=world_size - 1), world_size


def check_dist_url(dist_url: str) -> None:
    """Raise a UserError if --dist_url is not valid or names a host that cannot be resolved."""
    try:
        parts = urlsplit(dist_url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"--dist_url {dist_url}: {error}") from error
    if parts.scheme == "file" and parts.path:
        return
    if parts.scheme == "env":
        source = "environment variable MASTER_ADDR"
        host, port = os.environ.get("MASTER_ADDR"), env_int("MASTER_PORT", high=MAX_PORT)
        if not host:
            raise UserError(f"{source} is not set, must be the host of process 0; torchrun sets it")
    elif parts.scheme == "tcp" and host and port is not None:
        source = "--dist_url"
    else:
        raise UserError(f"--dist_url {dist_url}: must be env://, tcp://HOST:PORT or file:///PATH")
    deadline = time.monotonic() + RESOLVE_S
    while True:
        try:
            socket.getaddrinfo(host, port)
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() >= deadline:
                raise UserError(f"{source} {host}: no such host ({error})") from error
        time.sleep(1)


def rendezvous_error(error: Exception, dist_url: str) -> UserError | None:
    """Return a UserError if `error` says that the processes cannot meet, and None otherwise."""
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


def fresh_store(dist_url: str, rank: int, world_size: int) -> Store | None:
    """Return torchrun's store under a prefix that no earlier start of the run has used.

    torchrun keeps one store over its restarts (`--max_restarts`) unless it meets through c10d. A
    process that is early then reads the address at which another one listened before the restart,
    and finds nobody there (https://github.com/pytorch/pytorch/issues/135712). torchrun's count of
    restarts cannot be the prefix, because nodes may count differently.

    So the main process makes up the prefix. Each process leaves a number of its own as a question,
    and the main process answers it with the prefix. A question may be left from an earlier start,
    so the main process answers whatever is asked until each process has confirmed the prefix.

    Returns:
        The store; None if torchrun has none for its processes, so that PyTorch makes a new one.

    Raises:
        TimeoutError: Some processes have not come.
    """
    if not dist_url.startswith("env:") or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    store, _, _ = next(torch.distributed.rendezvous(dist_url, rank, world_size))
    own = secrets.token_hex(8)
    if rank != 0:
        store.set(f"here/{rank}", own)
        prefix = store.get(f"start/{own}").decode()  # waits for the answer
        store.set(f"{prefix}/joined/{rank}", "")
        return PrefixStore(prefix, store)
    missing = set(range(1, world_size))
    deadline = time.monotonic() + store.timeout.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"here/{other}"]):
                store.set(f"start/{store.get(f'here/{other}').decode()}", own)
            if store.check([f"{own}/joined/{other}"]):
                missing.remove(other)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(missing)} have not come")
        time.sleep(0.05)
    return PrefixStore(own, store)


def init_env_from_srun() -> None:
    """Make the tasks of a plain `srun python main.py` the processes of one run.

    Sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT as torchrun does, unless a
    launcher has set RANK or srun started a single task. (A batch script is not a task of srun.)

    Raises:
        UserError: Slurm does not name the hosts of the tasks.
    """
    tasks = env_int("SLURM_STEP_NUM_TASKS", 1)
    if "RANK" in os.environ or "SLURM_PROCID" not in os.environ or tasks == 1:
        return
    nodes = os.environ.get("SLURM_STEP_NODELIST", "")
    try:
        hosts = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"Slurm started {tasks} tasks on {nodes or 'unknown nodes'}, but scontrol does not "
            "name their hosts; set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
        ) from error
    # All tasks of a step must choose the same port, and jobs that share a node different ones.
    step = env_int("SLURM_JOB_ID") * 31 + env_int("SLURM_STEP_ID")
    # With --gpus-per-task each task sees only its own GPU, as number 0.
    own_gpu = torch.cuda.device_count() == 1
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = str(tasks)
    os.environ["LOCAL_RANK"] = "0" if own_gpu else str(env_int("SLURM_LOCALID"))
    os.environ.setdefault("MASTER_ADDR", hosts[0])
    os.environ.setdefault("MASTER_PORT", str(FIRST_PORT + step % PORTS))
