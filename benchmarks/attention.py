"""Measure attention by itself, forward and backward, without RPE and with RPE on keys.

    python benchmarks/attention.py [--device cuda] [--dtype bfloat16] [--json FILE]

sdpa is torch's scaled_dot_product_attention. With RPE (rpe-2.0-product-ctx-1-k):

    math        the formula: logits, RPE term and weights are tensors
    sdpa        the term looked up by rpe_ops, then sdpa with it as bias
    ready bias  sdpa with a precomputed bias: the cost of adding RPE alone
    flex        FlexAttention, compiled, with the table and the bucket ids captured; CUDA only
    fused       this project's kernels, which look RPE up inside; CUDA only
    cpu         this project's attention for training on CPUs

All but the ready bias also compute the table from queries, and every gradient. No dropout, no
padding: FlexAttention has no dropout. On CUDA, "extra" is the memory a step needs at most
besides its inputs and their gradients.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from measure import machine, medians, rounds_of_map, show, working, write_json
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from rpe_ops.attention import rpe_attention
from rpe_ops.attention.cpu import cpu_attention
from rpe_ops.irpe import build_rpe, get_rpe_config
from util.machine import keep_freed_memory

MAPS = ("25x34", "25x42", "50x84")
HEADS, HEAD_DIM = 8, 32
REFERENCE = "without, sdpa"

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
                        help="default: %(default)s")
    parser.add_argument("--batch_size", type=int, help="default: 1 on the CPU, else 8")
    parser.add_argument("--rounds", default=11, type=int, help="default: %(default)s")
    parser.add_argument("--maps", nargs="+", default=MAPS,
                        help="HEIGHTxWIDTH; default: %(default)s")
    parser.add_argument("--leave_out", nargs="+", default=[], metavar="WAY",
                        help="ways that are not measured, such as flex, which compiles long")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


def math(q: Tensor, k: Tensor, v: Tensor, term: Tensor | None = None) -> Tensor:
    logits = q @ k.mT
    if term is not None:
        logits = logits + term
    return logits.softmax(-1) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor, term: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=term, scale=1.0)


def with_flex(attention: Callable, table: Tensor, ids: Tensor, *qkv: Tensor) -> Tensor:
    """Compute FlexAttention with the RPE term table[b, h, i, ids[i, j]]."""

    def score_mod(score, b, h, i, j):
        return score + table[b, h, i, ids[i, j]]

    return attention(*qkv, score_mod=score_mod, scale=1.0)


def variants(hw: tuple[int, int], like: Tensor) -> dict[str, Attention]:
    """Return functions of q, k, v (shape, dtype, device of `like`, (B, H, L, D)) by their label."""
    config = get_rpe_config(2.0, "product", "ctx", rpe_on="k")
    rpe = build_rpe(config, HEAD_DIM, HEADS)[1].to(like)
    torch.nn.init.normal_(rpe.lookup_table_weight, std=0.1)
    ways: dict[str, Attention] = {
        REFERENCE: sdpa,
        "without, math": math,
        "with, math": lambda q, k, v: math(q, k, v, rpe(q, *hw)),
        "with, sdpa": lambda q, k, v: sdpa(q, k, v, rpe(q, *hw)),
    }
    batch_size, heads, length, _ = like.shape
    ready = torch.randn(batch_size, heads, length, length, device=like.device, dtype=like.dtype)
    ready.requires_grad_()

    def ready_bias(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ready.grad = None
        return sdpa(q, k, v, ready)

    ways["with, ready bias"] = ready_bias
    if like.device.type == "cpu":
        ways["without, cpu"] = lambda *qkv: cpu_attention(*qkv, [], 0.0)
        ways["with, cpu"] = lambda *qkv: rpe_attention(*qkv, rpe_k=rpe, hw=hw, scale=1.0)
    if like.device.type == "cuda":
        compiled = torch.compile(flex_attention, dynamic=False)
        ids = rpe.ids(like, *hw)
        ways["without, flex"] = partial(compiled, scale=1.0)
        ways["with, flex"] = lambda *qkv: with_flex(compiled, rpe.table(qkv[0]), ids, *qkv)
        ways["with, fused"] = lambda *qkv: rpe_attention(
            *qkv, rpe_k=rpe, hw=hw, scale=1.0, attention="fused"
        )
    return ways


def extra_megabytes(step: Callable[[], None], device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def main(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    facts = machine(device)
    dtype = getattr(torch, args.dtype)
    batch_size = args.batch_size or (1 if device.type == "cpu" else 8)
    facts["dtype"] = args.dtype
    if device.type == "cpu":
        facts["memory"] = keep_freed_memory()
    show(facts)
    results = []
    for text in args.maps:
        hw = tuple(map(int, text.split("x")))
        length = hw[0] * hw[1]
        shape = (batch_size, HEADS, length, HEAD_DIM)
        qkv = [torch.randn(shape, device=device, dtype=dtype).requires_grad_() for _ in range(3)]
        grad = torch.randn(shape, device=device, dtype=dtype)

        def step_of(attention: Attention, qkv=qkv, grad=grad) -> Callable[[], None]:
            def step() -> None:
                for tensor in qkv:
                    tensor.grad = None
                attention(*qkv).backward(grad)

            return step

        ways = variants(hw, qkv[0])
        steps, errors = working({
            name: step_of(attention)
            for name, attention in ways.items()
            if name.partition(", ")[2] not in args.leave_out
        })  # fmt: skip
        rounds = rounds_of_map(args.rounds, length, device)
        times = medians(steps, device, rounds)
        print(f"\nforward + backward  B={batch_size} H={HEADS} L={length} ({text}) D={HEAD_DIM}")
        for name, error in errors.items():
            print(f"  {name:18} {error}")
            results.append({"map": text, "batch_size": batch_size, "variant": name, "error": error})
        for name, seconds in times.items():
            ratio = seconds / times[REFERENCE]
            extra = extra_megabytes(steps[name], device)
            said = "" if extra is None else f"  extra {extra:8.1f} MB"
            print(f"  {name:18} {seconds * 1e3:9.2f} ms {ratio:6.2f} x sdpa without{said}")
            results.append(
                {"map": text, "batch_size": batch_size, "variant": name,
                 "milliseconds": round(seconds * 1e3, 3), "times_sdpa_without": round(ratio, 3),
                 **({} if extra is None else {"extra_mb": round(extra, 1)})}
            )  # fmt: skip
        write_json(args.json, facts, results, done=False)
    write_json(args.json, facts, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
