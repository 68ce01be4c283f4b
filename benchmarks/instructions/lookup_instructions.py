"""Count the instructions of Triton's lookups, compiled for GPUs that need not be there.

    python benchmarks/instructions/lookup_instructions.py [--arch 80 90 100] [--json FILE]

Two images, 8 heads, a map of 25 x 42 and 81 buckets by default. As `cuda_instructions.py` does for
the compiled library, it divides the instructions in a round of the hot loop by the values of a
round, both of a thread. That is a lower bound of the time, and no measurement: waiting for memory
is not in it.
"""

import argparse
import re
import sys
from pathlib import Path

# The repository before this folder's parent, which has measure.py: both have an rpe_ops.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import triton
from fused_instructions import AbsentGPU, OnlyCompiled, disassembled
from measure import write_json
from sass import ControlFlow
from triton.runtime.driver import driver

from rpe_ops import triton_lookup

DTYPES = {
    "fp32": torch.float32, "fp64": torch.float64, "fp16": torch.float16, "bf16": torch.bfloat16
}  # fmt: skip
# An instruction of each hot loop, which other loops do not have.
HOT = {"lookup_kernel": r"\bSTG\b", "sum_kernel": r"\b(HMMA|HGMMA|UTCHMMA|DADD)\b"}


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", type=int, default=[80, 90, 100],
                        help="compute capabilities, times 10; default: %(default)s")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["bf16", "fp32"],
                        help="default: %(default)s")
    parser.add_argument("--rows", nargs="+", type=int, default=[16, 64],
                        help="images times heads; default: %(default)s")
    parser.add_argument("--keys", nargs="+", type=int, default=[1050],
                        help="of a query; default: %(default)s")
    parser.add_argument("--buckets", nargs="+", type=int, default=[81],
                        help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


def compiled_kernels(arch: int, dtype: torch.dtype, rows: int, keys: int, buckets: int) -> list:
    """Compile the kernels of both operators; see `OnlyCompiled` for what is returned."""
    launches: list = []
    kernels = {name: getattr(triton_lookup, name) for name in HOT}
    driver.set_active(AbsentGPU(arch))
    try:
        for name, kernel in kernels.items():
            setattr(triton_lookup, name, OnlyCompiled(kernel, launches))
        index = torch.zeros(2, keys, dtype=torch.int32)
        triton_lookup.lookup(torch.zeros(1, rows, 2, buckets, dtype=dtype), index)
        triton_lookup.bucket_sum(torch.zeros(1, rows, 2, keys, dtype=dtype), index, buckets)
    finally:
        for name, kernel in kernels.items():
            setattr(triton_lookup, name, kernel)
    return launches


def measured(launch: tuple) -> dict:
    """Return the numbers of a compiled kernel."""
    name, compiled, _, options = launch
    text, usage = disassembled(compiled.asm["cubin"])
    flow = ControlFlow(text)
    bodies = [[line for b in body for line in flow.blocks[b]] for body in flow.loops.values()]
    hot = [body for body in bodies if any(re.search(HOT[name], line) for line in body)]
    loop = min(hot, key=len)
    warps = compiled.metadata.num_warps
    values = options["BLOCK_R"] * options["BLOCK_K"]
    count = sum(not line.startswith("NOP") for line in loop)
    return {
        "kernel": name.removesuffix("_kernel"),
        "instructions_a_value": round(count * warps * 32 / values, 2),
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", text)),
        "shared_bytes": compiled.metadata.shared,
        "warps": warps,
        "tf32": "tf32" in compiled.asm["ptx"],
        "atomics": bool(re.search(r"\b(ATOM|ATOMG|ATOMS|RED)\b", text)),
    }


def main(args: argparse.Namespace) -> None:
    """Compile every case; print and write a line for each kernel."""
    results = []
    for arch in args.arch:
        for dtype in args.dtype:
            for rows in args.rows:
                for keys in args.keys:
                    for buckets in args.buckets:
                        case = {"arch": arch, "dtype": dtype, "rows": rows, "keys": keys,
                                "buckets": buckets}  # fmt: skip
                        launches = compiled_kernels(arch, DTYPES[dtype], rows, keys, buckets)
                        for launch in launches:
                            results.append({**case, **measured(launch)})
                            print(*(f"{k} {v}" for k, v in results[-1].items()), flush=True)
    if args.json is not None:
        write_json(args.json, {"triton": triton.__version__}, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
