"""Whether the fused kernels give what the formula of attention gives, on two small maps."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from rpe_ops.irpe import RPESettings, bucket_ids, offset_buckets

from . import fused

# 84 tokens: more than a program's own, so that there is a tile that is not full. Both sizes of a
# chunk of a row occur: 14 columns fill 16 best, 28 columns 32.
MAPS = ((6, 14), (3, 28))
BATCH, HEADS = 2, 2
DROPOUT = 0.25
# Largest difference, as a share of the tensor's largest value.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 4e-2}


class Term(NamedTuple):
    """An RPE on queries or on keys, as far as other kernels are compiled for it."""

    settings: RPESettings
    dtype: torch.dtype  # of the table


class Kind(NamedTuple):
    """Calls that run the same kernels."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    term_q: Term | None
    term_k: Term | None
    dropout: bool

    def __str__(self) -> str:
        on = "".join(letter for letter, term in (("q", self.term_q), ("k", self.term_k)) if term)
        name = str(self.dtype).removeprefix("torch.")
        dropout = "with" if self.dropout else "without"
        return f"{name}, RPE on {on}, {self.head_dim} features, {dropout} dropout"


class Outcome(NamedTuple):
    """What a trial found.

    Attributes:
        problem: why the kernels must not be used; None if they may.
        difference: the largest one, as a share of the largest value; None after an error.
        seconds: with compilation.
    """

    problem: str | None
    difference: float | None
    seconds: float


def run(kind: Kind) -> Outcome:
    """Try the kernels for a kind of call. The caller's random generators are not used.

    It runs in a thread of its own, which has none of the caller's modes: whether gradients are
    recorded, inference mode, autocast, streams, modes that see or change each operator.
    """
    begin = time.perf_counter()
    try:
        with ThreadPoolExecutor(1) as thread:
            found = thread.submit(_differences, kind).result()
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0] if lines else ''}"
        return Outcome(reason, None, time.perf_counter() - begin)
    worst = max(found, key=lambda name: found[name])
    # A difference that is not a number fails, too.
    problem = None
    if not all(difference <= TOLERANCE[kind.dtype] for difference in found.values()):
        problem = (
            f"{worst} differs from the formula by {found[worst]:.2g} of its largest value, more "
            f"than {TOLERANCE[kind.dtype]:g}"
        )
    return Outcome(problem, found[worst], time.perf_counter() - begin)


def _differences(kind: Kind) -> dict[str, float]:
    """Return the largest difference of each result and gradient over all maps, as `TOLERANCE`."""
    found: dict[str, float] = {}
    with torch.cuda.device_of(torch.empty(0, device=kind.device)):
        for height, width in MAPS:
            for name, difference in _differences_on_map(kind, height, width).items():
                found[name] = max(difference, found.get(name, 0.0), key=_nan_is_largest)
    return found


def _nan_is_largest(number: float) -> float:
    return float("inf") if number != number else number


def _differences_on_map(kind: Kind, height: int, width: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    length, dim = height * width, kind.head_dim

    def draw(*shape: int, dtype: torch.dtype = kind.dtype, std: float = 1.0) -> Tensor:
        numbers = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        return (numbers * std).to(dtype)

    shape = (BATCH, HEADS, length)
    inputs = {"q": draw(*shape, dim, std=dim**-0.5), "k": draw(*shape, dim), "v": draw(*shape, dim)}
    settings = {}
    for name, term in (("table of k", kind.term_k), ("table of q", kind.term_q)):
        if term is not None:
            own = (1, HEADS, 1) if term.settings.mode == "bias" else shape
            inputs[name] = draw(*own, term.settings.num_buckets, dtype=term.dtype)
            settings[name] = term.settings
    direction = draw(*shape, dim)
    padding = torch.zeros(BATCH, height, width, dtype=torch.bool, device="cpu")
    padding[-1, -1:] = padding[-1, :, -3:] = True
    padding = padding.flatten(1)

    def on_device(name: str) -> fused.RPETerm | None:
        if name not in settings:
            return None
        offsets = offset_buckets(settings[name], height, width).to(kind.device)
        return fused.RPETerm(leaves[name], offsets, settings[name].side)

    def attention(v: Tensor) -> Tensor:
        return fused.fused_attention(
            leaves["q"], leaves["k"], v, (height, width), on_device("table of k"),
            on_device("table of q"), padding.to(kind.device), dropout_p, seed,
        )  # fmt: skip

    leaves = {name: x.to(kind.device).requires_grad_() for name, x in inputs.items()}
    dropout_p = DROPOUT if kind.dropout else 0.0
    seed = torch.tensor([1], device=kind.device) if kind.dropout else None
    out = attention(leaves["v"])
    gradients = torch.autograd.grad(out, list(leaves.values()), direction.to(kind.device))
    ours = dict(zip(("output", *inputs), (out.detach(), *gradients), strict=True))

    kept = torch.ones(*shape, length, dtype=torch.bool, device="cpu")
    if kind.dropout:
        kept = _kept(attention, leaves["v"])
        unpadded = kept[:-1].double()  # the last image has padding, whose weights are 0
        share = unpadded.mean().item()
        deviation = (DROPOUT * (1 - DROPOUT) / unpadded.numel()) ** 0.5
        if not abs(share - (1 - DROPOUT)) < 6 * deviation:
            return {"the share of weights that dropout keeps": abs(share - (1 - DROPOUT))}
    buckets = {name: bucket_ids(term, height, width) for name, term in settings.items()}
    wanted = _formula(inputs, buckets, padding, kept, direction, kind.dropout)
    return {
        name: ((ours[name].double().cpu() - x).abs().max() / x.abs().max()).item()
        for name, x in wanted.items()
    }


@torch.no_grad()
def _kept(attention: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
    """Return which weights dropout keeps, (B, H, L, L): values of 0 and 1 pick single weights."""
    length, dim = v.shape[2:]
    parts = []
    for first in range(0, length, dim):
        picked = torch.zeros_like(v)
        for d in range(min(dim, length - first)):
            picked[:, :, first + d, d] = 1
        parts.append(attention(picked)[..., : length - first].cpu())
    return torch.cat(parts, dim=-1) != 0


def _formula(
    inputs: dict[str, Tensor],
    buckets: dict[str, Tensor],
    padding: Tensor,
    kept: Tensor,
    direction: Tensor,
    dropout: bool,
) -> dict[str, Tensor]:
    """Compute output and gradients in float64 on the CPU, with logits and weights as tensors."""
    leaves = {name: x.double().requires_grad_() for name, x in inputs.items()}
    logits = leaves["q"] @ leaves["k"].mT
    for name, index in buckets.items():
        table = leaves[name].expand(*logits.shape[:3], -1)
        term = table.gather(3, index.long().expand_as(logits))
        logits = logits + (term if name == "table of k" else term.mT)
    weights = logits.masked_fill(padding[:, None, None], float("-inf")).softmax(-1)
    if dropout:
        weights = weights * kept / (1 - DROPOUT)
    out = weights @ leaves["v"]
    gradients = torch.autograd.grad(out, list(leaves.values()), direction.double())
    return dict(zip(("output", *inputs), (out.detach(), *gradients), strict=True))
