"""Compile the kernels of fused attention for GPUs that need not be there.

Calls fused attention, forward and backward, as a layer does, but every launch only compiles.
Prints a line for each: what was compiled, and how many bytes of registers spill to memory.
"""

import re
import subprocess
import tempfile

import torch
from triton.backends.compiler import GPUTarget
from triton.knobs import nvidia
from triton.runtime.driver import driver

from models.rpe_attention.backends import fused_ops
from models.rpe_attention.backends.fused import RPETerm, fused_attention
from models.rpe_attention.irpe import get_rpe_config, offset_buckets

CASES = [  # dtype, head_dim, map, terms, padding, dropout, tables expanded over all tokens
    (torch.bfloat16, 32, (25, 42), "k", True, 0.1, False),
    (torch.bfloat16, 32, (42, 25), "kq", True, 0.1, False),
    (torch.float16, 64, (16, 16), "q", False, 0.0, False),
    (torch.bfloat16, 128, (1, 9), "k", True, 0.1, True),
    (torch.float32, 32, (42, 25), "kq", True, 0.1, False),
    (torch.float32, 128, (9, 1), "k", True, 0.1, False),
    (torch.float32, 1, (1, 1), "kq", False, 0.0, True),
    (torch.float32, 20, (2, 3), "", False, 0.1, False),
]


class AbsentGPU:
    """What Triton asks a driver before it compiles."""

    def __init__(self, arch: int):
        self.target = GPUTarget("cuda", arch, 32)

    def get_current_device(self) -> int:
        return self.target.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


class OnlyCompiled:
    """Stands in for a kernel."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def launch(*args, **options):
            compiled = self.kernel.warmup(*args, grid=grid, **options)
            print(self.kernel.__name__, spilled(compiled.asm["ptx"]), flush=True)

        return launch


def spilled(ptx: str) -> int:
    """Bytes that the assembler cannot keep in registers."""
    arch = re.search(r"\.target (sm_\w+)", ptx).group(1)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        report = subprocess.run(
            [nvidia.ptxas.path, "-v", f"--gpu-name={arch}", file.name, "-o", "/dev/null"],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
    return int(re.search(r"(\d+) bytes spill stores", report).group(1))


def attend(dtype, head_dim, hw, on, padded, dropout_p, expanded) -> None:
    settings = get_rpe_config(2.0).rpe_k
    batch, heads, length = 2, 8, hw[0] * hw[1]
    x = torch.zeros(length, batch, 3 * heads * head_dim, dtype=dtype, requires_grad=True)
    q, k, v = (t.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3) for t in x.chunk(3, dim=-1))
    shape = (1, 1, 1) if expanded else (batch, heads, length)
    terms = [
        RPETerm(
            torch.zeros(*shape, settings.num_buckets, dtype=dtype, requires_grad=True),
            offset_buckets(settings, *hw),
            settings.side,
        )
        if letter in on
        else None
        for letter in "kq"
    ]
    padding = torch.zeros(batch, length, dtype=torch.bool) if padded else None
    fused_attention(q * 0.5, k, v, hw, *terms, padding, dropout_p).sum().backward()


for name in ("forward_kernel", "backward_queries_kernel", "backward_keys_kernel"):
    setattr(fused_ops, name, OnlyCompiled(getattr(fused_ops, name)))
for arch in (80, 90):
    driver.set_active(AbsentGPU(arch))
    for case in CASES:
        print(f"sm_{arch}", *case)
        attend(*case)
