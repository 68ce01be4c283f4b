"""The device fixture: each set of kernels that this machine can run."""

import pytest
import torch

from rpe_ops.library import LIBRARY


def all_kernels() -> list[str]:
    """cpu:avx512, cpu:avx2, cpu:portable, cuda, cpu:pytorch: whatever can run here."""
    kernels = []
    if LIBRARY.path is not None:
        kernels += [f"cpu:{name}" for name in torch.ops.rpe_ops.all_cpu_kernels()]
    else:
        kernels.append("cpu:pytorch")
    if torch.cuda.is_available():
        kernels.append("cuda")
    return kernels


@pytest.fixture(params=all_kernels())
def device(request):
    """The device of a set of kernels, which are in use meanwhile."""
    device_type, _, name = request.param.partition(":")
    if LIBRARY.path is not None:
        torch.ops.rpe_ops.use_cpu_kernels(name or "auto")
        yield torch.device(device_type)
        torch.ops.rpe_ops.use_cpu_kernels("auto")
    else:
        yield torch.device(device_type)
