"""Measure the operators of rpe_ops against copying, PyTorch's indexing, and gather/scatter_add.

    python benchmarks/rpe_ops.py [--device cuda] [--json FILE]

Each line is the median of many rounds in which all operations take turns. "x copy" is the time
over that of copying a tensor of the output's (forward) or input's (backward) size: an operator
that only moved bytes, each once, would need about half of it, for a copy reads and writes.
On the CPU freed memory is kept, as util/machine.py explains, so pages are warm.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from measure import machine, medians, show, write_json

from rpe_ops import rpe_index, rpe_index_ref, rpe_index_sum, rpe_index_sum_ref, rpe_weighted_sum
from rpe_ops.irpe import bucket_ids, get_rpe_config
from rpe_ops.library import LIBRARY
from util.machine import keep_freed_memory

MAPS = ((25, 34), (25, 42), (50, 84))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HEAD_DIM = 32
SETTINGS = get_rpe_config(2.0, "product").rpe_k  # 9 x 9 buckets


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    parser.add_argument("--batch_size", default=2, type=int, help="default: %(default)s")
    parser.add_argument("--nheads", default=8, type=int, help="default: %(default)s")
    parser.add_argument("--rounds", default=31, type=int,
                        help="default: %(default)s, fewer for large maps on the CPU")
    parser.add_argument("--maps", nargs="+", default=[f"{h}x{w}" for h, w in MAPS],
                        help="feature maps, HEIGHTxWIDTH; default: %(default)s")
    # fmt: on
    return parser


def pytorch_indexing(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Look up by advanced indexing into the flattened table, as the published code does."""
    queries, buckets = table.shape[2:]
    offsets = torch.arange(queries, device=index.device)[:, None] * buckets
    return table.flatten(2)[:, :, index + offsets]


def actions_of(table: torch.Tensor, x: torch.Tensor, index: torch.Tensor) -> tuple[dict, dict]:
    """Return the timed actions, forward and backward, by name.

    Args:
        table: (B, H, L, N); x: (B, H, L, L), a gradient; index: (L, L) int32.
    """
    wide = index.long()  # what PyTorch's own operators take
    buckets = table.shape[3]
    ready = torch.empty_like(x)
    leaf = table.clone().requires_grad_()
    indexed = pytorch_indexing(leaf, wide)

    def on(kernels: str, action):
        def run():
            torch.ops.rpe_ops.use_cpu_kernels(kernels)
            action()

        return run

    forward = {
        "copy": lambda: ready.copy_(x),
        "pytorch indexing": lambda: pytorch_indexing(table, wide),
        "gather": lambda: rpe_index_ref(table, wide),
    }
    backward = {
        "copy": lambda: ready.copy_(x),
        "sum": lambda: x.sum(-1),
        "pytorch indexing": lambda: torch.autograd.grad(indexed, leaf, x, retain_graph=True),
        "scatter_add": lambda: rpe_index_sum_ref(x, wide, buckets),
    }
    kernels = []
    if table.is_cuda:
        if "cuda" in LIBRARY.devices:
            forward["rpe_ops"] = lambda: rpe_index(table, index)
            backward["rpe_ops"] = lambda: rpe_index_sum(x, index, buckets)
    elif LIBRARY.path is not None:
        kernels = torch.ops.rpe_ops.all_cpu_kernels()[::-1]
    for name in kernels:
        forward[f"rpe_ops {name}"] = on(name, lambda: rpe_index(table, index))
        backward[f"rpe_ops {name}"] = on(name, lambda: rpe_index_sum(x, index, buckets))
    return forward, backward


def value_actions(x: torch.Tensor, index: torch.Tensor, buckets: int) -> dict:
    """Time forward and backward of RPE on values, and of its matrix products alone.

    Args:
        x: (B, H, L, L), attention weights.
    """
    weights = x.clone().requires_grad_()
    table = torch.randn(1, buckets, HEAD_DIM).to(x).requires_grad_()
    grad = torch.randn(*x.shape[:3], HEAD_DIM).to(x)
    sums = torch.randn(*x.shape[:3], buckets).to(x)
    ready = torch.empty_like(x)

    def products():
        plain = table.detach()
        return sums @ plain, grad @ plain.mT, torch.einsum("bhin,bhid->nd", sums, grad)

    def term():
        out = rpe_weighted_sum(weights, index, table)
        return torch.autograd.grad(out, (weights, table), grad)

    torch.ops.rpe_ops.use_cpu_kernels("auto")
    return {"copy": lambda: ready.copy_(x), "products alone": products, "rpe_weighted_sum": term}


def bytes_moved(name: str, table: torch.Tensor, x: torch.Tensor, index: torch.Tensor) -> int:
    """Return the fewest bytes an operation moves: inputs read once, outputs written once."""
    if name == "copy":
        return 2 * x.nbytes
    if name == "sum":
        return x.nbytes
    return table.nbytes + x.nbytes + index.nbytes


def main(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    facts = machine(device)
    facts["rpe_ops"] = str(LIBRARY.path.name if LIBRARY.path else "; ".join(LIBRARY.problems))
    if device.type == "cpu":
        facts["memory"] = keep_freed_memory()
    show(facts)
    results = []
    for text in args.maps:
        height, width = map(int, text.split("x"))
        tokens = height * width
        index = bucket_ids(SETTINGS, height, width, device=device)
        rounds = args.rounds
        if device.type == "cpu":
            rounds = max(5, rounds * 1100**2 // max(tokens, 1100) ** 2)
        for dtype_name, dtype in DTYPES.items():
            shape = (args.batch_size, args.nheads, tokens)
            table = torch.randn(*shape, SETTINGS.num_buckets, device=device).to(dtype)
            x = torch.randn(*shape, tokens, device=device).to(dtype)
            forward, backward = actions_of(table, x, index)
            case = {
                "batch_size": shape[0], "nheads": shape[1], "tokens": tokens, "map": text,
                "buckets": SETTINGS.num_buckets, "dtype": dtype_name,
            }  # fmt: skip
            for direction, actions in (("forward", forward), ("backward", backward)):
                times = medians(actions, device, rounds)
                print_case(direction, case)
                for name, seconds in times.items():
                    rate = bytes_moved(name, table, x, index) / seconds / 1e9
                    result = {
                        "direction": direction, **case, "operation": name,
                        "milliseconds": round(seconds * 1e3, 4), "gb_per_s": round(rate, 2),
                        "times_copy": round(seconds / times["copy"], 3),
                        "times_faster_than_indexing":
                            round(times["pytorch indexing"] / seconds, 2),
                    }  # fmt: skip
                    print(
                        f"  {name:18} {seconds * 1e3:9.3f} ms {rate:8.1f} GB/s "
                        f"{result['times_copy']:7.2f} x copy  "
                        f"{result['times_faster_than_indexing']:6.1f} x faster than indexing"
                    )
                    results.append(result)
            del forward, backward
            if LIBRARY.path is not None:
                times = medians(value_actions(x, index, SETTINGS.num_buckets), device, rounds)
                direction = "forward + backward on values"
                print_case(f"{direction}, D={HEAD_DIM}", case)
                for name, seconds in times.items():
                    ratio = round(seconds / times["copy"], 3)
                    print(f"  {name:18} {seconds * 1e3:9.3f} ms {ratio:24.2f} x copy")
                    results.append(
                        {"direction": direction, **case, "head_dim": HEAD_DIM, "operation": name,
                         "milliseconds": round(seconds * 1e3, 4), "times_copy": ratio}
                    )  # fmt: skip
            write_json(args.json, facts, results, done=False)
    write_json(args.json, facts, results)


def print_case(direction: str, case: dict) -> None:
    print(
        f"\n{direction}  B={case['batch_size']} H={case['nheads']} L={case['tokens']} "
        f"({case['map']}) N={case['buckets']} {case['dtype']}"
    )


if __name__ == "__main__":
    main(get_args_parser().parse_args())
