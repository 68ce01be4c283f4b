"""`python -m rpe_ops`: print which kernels are active, and why others are not."""

import sys

import torch

from .library import HOW_TO_BUILD, LIBRARY
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
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU is at hand"
        lines.append(f"CUDA     compiled kernels, toolkit {build['cuda']}; {gpu}")
    else:
        lines.append(f"CUDA     {PYTORCH}: {LIBRARY.why_not('cuda')}")
    if LIBRARY.path is not None:
        lines += [f"skipped  {problem}" for problem in LIBRARY.problems]
    return "\n".join(lines)


if __name__ == "__main__":
    print(status())
