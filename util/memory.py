"""A setting of the C library for the memory of freed tensors."""

import ctypes
import os
import platform

# Numbers of malloc.h (glibc).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER = -1  # as a threshold
ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc")


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
