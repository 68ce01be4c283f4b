"""Compile the kernels of fused attention for GPUs that need not be there.

    python tests/models/rpe_attention/compile_kernels.py few | all

with the repository and benchmarks/instructions in PYTHONPATH.

Prints a line of JSON for each kernel of few cases, or of all: what `fused_instructions.measured`
finds, and whether its code has TensorFloat-32. It runs with every Triton that is supported.
"""

import json
import sys

import torch
from fused_instructions import compiled_kernels, measured

from rpe_ops.irpe import MapPair, TokenMap

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# dtype, keys' map, head_dim, terms, padding, dropout, tables expanded over all tokens, number of
# extra tokens, queries' map
DETECTOR = [
    (BF16, (25, 42), 32, "k", True, 0.1, False),
    (BF16, (25, 42), 32, "k", True, 0.1, False, 1),
    (BF16, (25, 42), 32, "k", True, 0.1, False, 0, (50, 84)),
]
CASES = [
    *DETECTOR,
    (BF16, (50, 84), 32, "k", True, 0.1, False),
    (BF16, (42, 25), 32, "kq", True, 0.1, False),
    (FP16, (16, 16), 64, "q", False, 0.0, False),
    (BF16, (1, 9), 128, "k", True, 0.1, True),
    (FP32, (42, 25), 32, "kq", True, 0.1, False),
    (FP32, (9, 1), 128, "k", True, 0.1, False),
    (FP32, (1, 1), 1, "kq", False, 0.0, True),
    (FP32, (2, 3), 20, "", False, 0.1, False),
    (BF16, (14, 14), 64, "qkv", False, 0.0, False, 1),
    (FP16, (25, 42), 32, "kv", True, 0.1, False),
]

every = sys.argv[1] == "all"
for arch in (80, 90, 100) if every else (90,):
    for case in CASES if every else DETECTOR:
        hw, (skip, queries) = case[1], (*case[7:], *(0, None)[len(case) - 7 :])
        maps = MapPair(TokenMap(*(queries or hw), skip), TokenMap(*hw, skip))
        for launch in compiled_kernels(arch, *case):
            found = measured(launch, maps)
            found["tf32"] = "tf32" in launch[1].asm["ptx"]
            print(json.dumps({"arch": arch, "case": str(case), **found}), flush=True)
