"""Compile the kernels of fused attention for GPUs that need not be there.

Prints a line for each: what was compiled, and how many bytes of registers spill to memory.
"""

import itertools
import re
import subprocess
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.knobs import nvidia

from models.rpe_attention.fused_backward_kernels import (
    backward_keys_kernel,
    backward_queries_kernel,
)
from models.rpe_attention.fused_kernels import forward_kernel
from models.rpe_attention.fused_ops import _sizes

KERNELS = (forward_kernel, backward_queries_kernel, backward_keys_kernel)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FIXED_TYPES = {
    "heads": "i32", "height": "i32", "width": "i32", "dropout_p": "fp32", "padding": "*u8",
    "seed": "*i64", "offsets_k": "*i32", "offsets_q": "*i32", "log_sum_exp": "*fp32",
    "delta": "*fp32",
}  # fmt: skip


def compiled(kernel, dtype: str, head_dim: int, arch: int) -> str:
    """PTX of `kernel` with all that it can do; side 9, as ratio 2.0 has."""
    sizes = _sizes(torch.empty(1, 1, 1024, head_dim, dtype=DTYPES[dtype]), 32)
    owns_keys = kernel is backward_keys_kernel
    constants = {
        "HEAD_DIM": head_dim,
        "BLOCK_D": sizes.head_dim,
        "BLOCK_M": sizes.chunk if owns_keys else sizes.owned,
        "BLOCK_N": sizes.owned if owns_keys else sizes.chunk,
        "SEGMENT": 9,
        "BLOCK_S": 16,
    }
    signature, values = {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[(i,)] = "constexpr", constants[name]
        elif name.endswith("_strides"):
            signature[name], values[(i, 3)] = ("i32", "i32", "i32", "constexpr"), 1
        else:
            signature[name] = FIXED_TYPES.get(name, "*" + dtype)
    return triton.compile(
        ASTSource(kernel, signature, values),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": sizes.warps},
    ).asm["ptx"]


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


for kernel, dtype, head_dim, arch in itertools.product(KERNELS, DTYPES, (32, 128), (80, 90)):
    bytes_spilled = spilled(compiled(kernel, dtype, head_dim, arch))
    print(kernel.__name__, dtype, head_dim, f"sm_{arch}", bytes_spilled, flush=True)
