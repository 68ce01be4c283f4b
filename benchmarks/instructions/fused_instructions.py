"""Count the instructions of the fused attention kernels, compiled for GPUs that need not be there.

    python benchmarks/instructions/fused_instructions.py [--arch 80 90 100] [--json FILE]

Two images, 8 heads of 32 features, rpe-2.0-product-ctx-1-k, padding. A pair is a query and a key.
What is counted are issue slots, of which an SM has four a cycle:

    slots a pair = instructions a warp executes x warps x 32 / pairs that its program computes

An instruction of 32 threads counts as 32, so that a slot is an instruction of one thread. Loops and
skipped branches count as often as they run (`sass.py`). "computed" divides by all pairs of tiles
and chunks, "useful" by those within the map. That is a lower bound of the time, and no measurement:
waiting for memory is not in it.
"""

import argparse
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# The repository before this folder's parent, which has measure.py: both have an rpe_ops.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import triton
from measure import write_json
from sass import executed
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from rpe_ops.attention import fused_ops
from rpe_ops.attention.fused import Buckets, RPETerm, fused_attention
from rpe_ops.irpe import MapPair, TokenMap, get_rpe_config, offset_buckets

KERNELS = ("forward_kernel", "backward_queries_kernel", "backward_keys_kernel")
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
BATCH, HEADS, HEAD_DIM = 2, 8, 32
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
COLUMNS = {
    "": "{kernel}, sm_{arch}, {dtype}, {map}, dropout {dropout}",
    "slots a pair": "{slots_a_pair:.1f}",
    "of useful pairs": "{slots_a_useful_pair:.1f}",
    "registers": "{registers}",
    "spills": "{spills}",
    "shared": "{shared_bytes}",
    "barriers": "{barriers_a_step:.1f}",
    "warps": "{warps}",
    "repeated": "{repeated_work}x",
}


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", type=int, default=[80, 90, 100],
                        help="compute capabilities, times 10; default: %(default)s")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["bf16", "fp32"],
                        help="default: %(default)s")
    parser.add_argument("--maps", nargs="+", default=["25x42", "50x84"],
                        help="HEIGHTxWIDTH; default: %(default)s")
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.1, 0.0],
                        help="default: %(default)s")
    parser.add_argument("--on", default="k", help="RPE on q, k, v; default: %(default)s")
    parser.add_argument("--skip", type=int, default=0, help="extra tokens; default: %(default)s")
    parser.add_argument("--sass", type=Path, metavar="DIR", help="write the machine code there")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


# ---- compiling without a GPU ----


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
    """Stands in for a kernel: a launch compiles, and appends (name, compiled, grid, options)."""

    def __init__(self, kernel, launches: list):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        def launch(*args, **options):
            compiled = self.kernel.warmup(*args, grid=grid, **options)
            self.launches.append((self.kernel.__name__, compiled, grid, options))

        return launch


def compiled_kernels(
    arch: int, dtype: torch.dtype, hw: tuple[int, int], head_dim: int = HEAD_DIM, on: str = "k",
    padded: bool = True, dropout_p: float = 0.1, expanded: bool = False, skip: int = 0,
    queries: tuple[int, int] | None = None,
) -> list:  # fmt: skip
    """Compile what a training step of a layer launches; see `OnlyCompiled` for what is returned.

    Args:
        hw: the map of the keys.
        on: letters of q, k, v: where there is RPE.
        expanded: tables of a single token, expanded over all, as `BiasRPE` has them.
        skip: number of extra tokens.
        queries: the map of the queries, if it is another one.
    """
    launches: list = []
    kernels = {name: getattr(fused_ops, name) for name in KERNELS}
    settings = get_rpe_config(2.0, skip=skip).rpe_k
    maps = MapPair(TokenMap(*(queries or hw), skip), TokenMap(*hw, skip))
    buckets = Buckets(offset_buckets(settings, *hw), settings.side, True)

    def project(length: int, parts: int) -> list:
        x = torch.zeros(length, BATCH, parts * HEADS * head_dim, dtype=dtype, requires_grad=True)
        return [t.unflatten(-1, (HEADS, -1)).permute(1, 2, 0, 3) for t in x.chunk(parts, dim=-1)]

    len_q, len_k = (each.tokens for each in maps)
    q, k, v = project(len_k, 3)
    if queries is not None:
        (q,) = project(len_q, 1)
    terms = []
    for letter, length in (("k", len_q), ("q", len_k)):
        shape = (1, 1, 1) if expanded else (BATCH, HEADS, length)
        table = torch.zeros(*shape, settings.num_buckets, dtype=dtype, requires_grad=True)
        terms.append(RPETerm(table, buckets) if letter in on else None)
    terms.append(buckets if "v" in on else None)
    padding = torch.zeros(BATCH, len_k, dtype=torch.bool) if padded else None
    driver.set_active(AbsentGPU(arch))
    try:
        for name, kernel in kernels.items():
            setattr(fused_ops, name, OnlyCompiled(kernel, launches))
        out, sums = fused_attention(q * 0.5, k, v, maps, *terms, padding, dropout_p)
        # In the layout of the output projection.
        torch.autograd.backward((out, sums), (torch.zeros_like(out), torch.zeros_like(sums)))
    finally:
        for name, kernel in kernels.items():
            setattr(fused_ops, name, kernel)
    return launches


# ---- counting ----


def disassembled(cubin: bytes) -> tuple[str, str]:
    """Return the machine code and the line of its registers and memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        commands = ([TOOLS / "nvdisasm", "-c"], [TOOLS / "cuobjdump", "-res-usage"])
        return tuple(
            subprocess.run([*c, file.name], capture_output=True, text=True, check=True).stdout
            for c in commands
        )


def repeated_work(ttgir: str) -> int:
    """Return how many threads compute the same pair, by the layouts of the products.

    The warps of a layout that is larger than the tile repeat each other's work.
    """
    worst = 1
    layouts = dict(re.findall(r"^(#\w+) = (#ttg\..*)$", ttgir, re.M))
    products = re.findall(
        r"= (?:tt\.dot|ttng\.warp_group_dot) .*-> tensor<(\d+)x(\d+)xf32, (#\w+)>", ttgir
    )
    for rows, columns, name in products:
        numbers = {
            key: [int(x) for x in values.split(",")]
            for key, values in re.findall(r"(\w+) = \[([\d, ]+)\]", layouts[name])
        }
        if "instrShape" in numbers:
            covered = [w * s for w, s in zip(numbers["warpsPerCTA"], numbers["instrShape"])]
        else:
            keys = ("sizePerThread", "threadsPerWarp", "warpsPerCTA")
            covered = [math.prod(values) for values in zip(*(numbers[key] for key in keys))]
        sizes = (int(rows), int(columns))
        worst = max(worst, math.prod(max(c // s, 1) for c, s in zip(covered, sizes)))
    return worst


def work_of(name: str, options: dict, maps: MapPair) -> tuple[list[int], float, int]:
    """Return trip counts of a program's loops, the share of skipped branches, pairs computed.

    What may be skipped is the look-up of a run, and the sum of its gradient, which a chunk's last
    step does, too. A chunk of extra tokens, which has a single step, is counted as a whole one.
    """
    others = maps.queries if name == "backward_keys_kernel" else maps.keys
    chunks = math.ceil(others.width / options["BLOCK_X"])
    rows = get_rpe_config(2.0).rpe_k.axis_buckets
    far = len(rows) // 2
    of_offset = [rows[max(-far, min(d, far)) + far] for d in range(-others.height, others.height)]
    changes = sum(
        of_offset[own - other + others.height] != of_offset[own - other + 1 + others.height]
        for own in range(others.height)
        for other in range(1, others.height)
    )
    share = changes / others.height**2 + (0 if name == "forward_kernel" else 1 / others.height)
    steps = chunks * others.height
    return [chunks, others.height], share, steps * options["BLOCK_O"] * options["BLOCK_X"]


def measured(launch: tuple, maps: MapPair, sass_to: Path | None = None) -> dict:
    """Return the numbers of a compiled kernel."""
    name, compiled, grid, options = launch
    text, usage = disassembled(compiled.asm["cubin"])
    if sass_to is not None:
        sass_to.write_text(text)
    trips, share, pairs = work_of(name, options, maps)
    counts = executed(text, trips, share)
    warps = compiled.metadata.num_warps
    slots = counts["instructions"] * warps * 32
    useful = BATCH * HEADS * maps.queries.tokens * maps.keys.tokens / grid[0]
    return {
        "kernel": name.removesuffix("_kernel"),
        "slots_a_pair": slots / pairs,
        "slots_a_useful_pair": slots / useful,
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", text)),
        "shared_bytes": compiled.metadata.shared,
        "barriers_a_step": counts["barriers"] / math.prod(trips),
        "warps": warps,
        "programs": grid[0],
        "repeated_work": repeated_work(compiled.asm["ttgir"]),
    }


def main(args: argparse.Namespace) -> None:
    """Compile every case; print and write a line for each kernel."""
    results = []
    for arch in args.arch:
        for dtype in args.dtype:
            for size in args.maps:
                hw = tuple(map(int, size.split("x")))
                maps = MapPair(*[TokenMap(*hw, args.skip)] * 2)
                for dropout in args.dropout:
                    case = {"arch": arch, "dtype": dtype, "map": size, "dropout": dropout}
                    launches = compiled_kernels(
                        arch, DTYPES[dtype], hw, on=args.on, dropout_p=dropout, skip=args.skip
                    )
                    for launch in launches:
                        path = None
                        if args.sass is not None:
                            args.sass.mkdir(parents=True, exist_ok=True)
                            path = args.sass / f"{launch[0]}_{arch}_{dtype}_{size}_{dropout}.sass"
                        results.append({**case, **measured(launch, maps, path)})
                        line = {k: v.format(**results[-1]) for k, v in COLUMNS.items()}
                        print("  ".join(f"{k} {v}" for k, v in line.items()), flush=True)
    if args.json is not None:
        about = {"triton": triton.__version__, "batch_size": BATCH, "heads": HEADS,
                 "head_dim": HEAD_DIM, "rpe": f"rpe-2.0-product-ctx-1-{args.on}"}  # fmt: skip
        write_json(args.json, about, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
