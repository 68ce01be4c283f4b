"""Say which kernels are active, and why others are not: what `python -m rpe_ops` prints."""

import sys

import torch

from .attention.check import lines_of
from .check import check_all
from .functions import DTYPES, why_not_triton
from .library import HOW_TO_BUILD, LIBRARY, serves_gpu, why_not_gpu
from .version import __version__

PYTORCH = "PyTorch's own operators"


def status() -> str:
    """Return a line each for versions, library, CPU, CUDA, and every library that was skipped."""
    build = LIBRARY.build
    lines = [
        f"rpe_ops  {__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}",
        f"library  {LIBRARY.path or 'none: ' + HOW_TO_BUILD}",
    ]
    if LIBRARY.path is not None:
        lines.append(f"built    for torch {build['torch']}, by compiler {build['compiler']}")
        lines.append(f"CPU      compiled kernels: {torch.ops.rpe_ops.cpu_kernels()}")
    else:
        lines.append(f"CPU      {PYTORCH}: {LIBRARY.why_not('cpu')}")
    if "cuda" in LIBRARY.devices:
        architectures = ", ".join(LIBRARY.architectures)
        lines.append(f"CUDA     compiled kernels, toolkit {build['cuda']}, for {architectures}")
    else:
        lines.append(f"CUDA     no kernels in a library: {LIBRARY.why_not('cuda')}")
    lines += gpus() or ["GPU      none is at hand"]
    if LIBRARY.path is not None:
        lines += [f"skipped  {problem}" for problem in LIBRARY.problems]
    return "\n".join(lines)


def gpus() -> list[str]:
    """Return a line for each GPU: what computes the operators there, and why nothing faster does.

    Triton's kernels are tried where they would be used, which compiles them.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{index:<3} {_active(index)}" for index in range(count)]


def _active(index: int) -> str:
    if serves_gpu(index):
        return f"{torch.cuda.get_device_name(index)}: compiled kernels"
    reasons = dict.fromkeys(why_not_triton(index, dtype) for dtype in DTYPES)
    said = "; ".join(reason for reason in reasons if reason is not None)
    kernels = "Triton's kernels" if None in reasons else PYTORCH
    if None in reasons and said:
        kernels += f" and {PYTORCH}"
    return f"{kernels}: " + "; ".join(filter(None, (why_not_gpu(index), said)))


def check() -> bool:
    """Print what the checks of all kernels find, a line each; return whether all is ok."""
    failed = 0
    for result in check_all():
        print(result, flush=True)
        failed += not result.ok
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    for device in devices or [torch.device("cpu")]:
        for line, ok in lines_of(device):
            print(line, flush=True)
            failed += not ok
    print(f"{failed} failed" if failed else "all ok")
    return failed == 0
