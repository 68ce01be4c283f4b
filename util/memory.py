"""How the C library handles the memory of freed tensors."""

import ctypes
import platform

# Numbers of malloc.h (glibc).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Make glibc keep what is freed, instead of asking Linux for zeroed pages each time.

    By default every large tensor is fresh memory, whose pages Linux hands out, zeroed, one by
    one while the tensor is written: for large tensors that takes longer than most operations.
    Call this before the first tensor.

    Returns:
        False where there is no glibc; nothing changes then.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28))
    accepted = [mallopt(name, value) for name, value in settings]
    return all(accepted)
