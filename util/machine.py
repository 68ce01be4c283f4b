"""The machine: what results depend on besides the code, and a setting of its C library."""

import ctypes
import os
import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from util import VERSION

CPUINFO = Path("/proc/cpuinfo")  # of Linux
# Numbers of malloc.h (glibc).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER = -1  # as a threshold
ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc")


def machine_facts(device: torch.device | None = None) -> dict[str, str]:
    """Describe what a result depends on besides the code, as result files have it.

    Args:
        device: that computes; None where it is not known.

    Returns:
        Versions of PyTorch and Python, the processor and the threads that this process gives to
        PyTorch's operations on it; with a device its name, and of a GPU model and CUDA version.
    """
    facts = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "threads": str(torch.get_num_threads()),
    }
    if device is not None:
        facts["device"] = str(device)
        if device.type == "cuda":
            facts["gpu"] = torch.cuda.get_device_name(device)
            facts["cuda"] = str(torch.version.cuda or torch.version.hip)
    return facts


def surroundings(
    command: Sequence[str], device: torch.device | None = None, **versions: str
) -> dict[str, Any]:
    """Return when, where and by which command something is made, as values for JSON.

    Args:
        command: words of the command line.
        device: as of `machine_facts`, whose entries are here, too.
        versions: of further packages, beside those of this project, Python and PyTorch.
    """
    facts = machine_facts(device)
    own = {name: facts.pop(name) for name in ("python", "torch")}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "versions": {"detr-irpe": VERSION, **own, **versions},
        **facts,
        "threads": int(facts["threads"]),
        "cores": os.cpu_count(),
    }


def cpu_name() -> str:
    """Return the processor's name; that of its kind where the system does not tell."""
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def keep_freed_memory() -> str:
    """Make glibc keep freed memory for later tensors instead of returning it to Linux.

    By default every large tensor gets fresh memory, whose pages Linux zeroes and maps one by one
    while the tensor is written, which takes longer than most operations on it. Call this before
    the first tensor is made. The process then never shrinks. Other allocators, and glibc settings
    in the environment, are left alone.

    Returns:
        What was done, or why nothing was, in a few words.
    """
    preloaded = os.environ.get("LD_PRELOAD", "")
    chosen = [name for name in ALLOCATORS if name in preloaded]
    chosen += [name for name in os.environ if name.startswith("MALLOC_")]
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        chosen.append("GLIBC_TUNABLES")
    if os.environ.get("THP_MEM_ALLOC_ENABLE", "0") not in ("", "0"):
        chosen.append("THP_MEM_ALLOC_ENABLE")
    if chosen:
        return f"as {chosen[0]} says"
    if platform.libc_ver()[0] != "glibc":
        return "as the system does it (no glibc)"
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, 2**28))
    accepted = [mallopt(name, value) for name, value in settings]
    return "freed memory is kept" if all(accepted) else "as the system does it (glibc refused)"
