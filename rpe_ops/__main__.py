"""`python -m rpe_ops`: print which kernels are active, and why others are not."""

import sys

import torch

from .library import HOW_TO_BUILD, LIBRARY, has_code_for, why_no_code_for
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
        lines += gpus() or ["GPU      none is at hand"]
    else:
        lines.append(f"CUDA     {PYTORCH}: {LIBRARY.why_not('cuda')}")
    if LIBRARY.path is not None:
        lines += [f"skipped  {problem}" for problem in LIBRARY.problems]
    return "\n".join(lines)


def gpus() -> list[str]:
    """Return a line for each GPU, whether it can run the library."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [
        f"cuda:{index:<3} {torch.cuda.get_device_name(index)}: compiled kernels"
        if has_code_for(index)
        else f"cuda:{index:<3} {PYTORCH}: {why_no_code_for(index)}"
        for index in range(count)
    ]


if __name__ == "__main__":
    print(status())
