"""Whether the fused kernels give what the formula of attention gives, on two small maps."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from rpe_ops.irpe import METHOD, MapPair, RPESettings, TokenMap, offset_buckets, pair_bucket_ids

from . import fused

# 84 tokens: more than a program's own, so that there is a tile that is not full. Both sizes of a
# chunk of a row occur: 14 columns fill 16 best, 28 columns 32.
MAPS = ((6, 14), (3, 28))
BATCH, HEADS = 2, 2
DROPOUT = 0.25
# Largest difference, as a share of the tensor's largest value.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 4e-2}


class Term(NamedTuple):
    """An RPE on queries, keys or values, as far as other kernels are compiled for it."""

    settings: RPESettings
    dtype: torch.dtype  # of the table


class Kind(NamedTuple):
    """Calls that run the same kernels."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    term_q: Term | None
    term_k: Term | None
    term_v: Term | None
    dropout: bool
    extra: bool = False  # tokens before those of the map
    two_maps: bool = False  # of different size

    def __str__(self) -> str:
        terms = zip("qkv", (self.term_q, self.term_k, self.term_v), strict=True)
        on = "".join(letter for letter, term in terms if term)
        name = str(self.dtype).removeprefix("torch.")
        dropout = "with" if self.dropout else "without"
        more = ", extra tokens" * self.extra + ", two maps" * self.two_maps
        return f"{name}, RPE on {on}, {self.head_dim} features, {dropout} dropout{more}"


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
    dim = kind.head_dim
    of_keys = TokenMap(height, width, 2 * kind.extra)
    # The chunks of queries have the size that those of the map's would have.
    of_queries = TokenMap(height + int(kind.two_maps), width, int(kind.extra))
    maps = MapPair(of_queries, of_keys)

    def draw(*shape: int, dtype: torch.dtype = kind.dtype, std: float = 1.0) -> Tensor:
        numbers = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        return (numbers * std).to(dtype)

    q_shape, k_shape = ((BATCH, HEADS, each.tokens) for each in maps)
    inputs = {"q": draw(*q_shape, dim, std=dim**-0.5), "k": draw(*k_shape, dim)}
    inputs["v"] = draw(*k_shape, dim)
    terms = {"k": (kind.term_k, q_shape), "q": (kind.term_q, k_shape), "v": (kind.term_v, q_shape)}
    settings = {name: term.settings for name, (term, _) in terms.items() if term is not None}
    number_of = {name: each.num_image_buckets + kind.extra for name, each in settings.items()}
    for name, (term, shape) in terms.items():
        if term is not None and name != "v":
            own = (1, HEADS, 1) if term.settings.mode == "bias" else shape
            inputs[f"table of {name}"] = draw(*own, number_of[name], dtype=term.dtype)
    directions = {"output": draw(*q_shape, dim)}
    if "v" in settings:
        directions["sums"] = draw(*q_shape, number_of["v"], dtype=torch.float32)
    padding = torch.zeros(BATCH, height, width, dtype=torch.bool, device="cpu")
    padding[-1, -1:] = padding[-1, :, -3:] = True
    padding = torch.nn.functional.pad(padding.flatten(1), (of_keys.skip, 0))

    def buckets(name: str) -> fused.Buckets | None:
        if name not in settings:
            return None
        offsets = offset_buckets(settings[name], height, width).to(kind.device)
        by_axis = settings[name].method == METHOD.PRODUCT
        return fused.Buckets(offsets, settings[name].side, by_axis)

    def term_of(name: str) -> fused.RPETerm | None:
        of_term = buckets(name)
        return of_term and fused.RPETerm(leaves[f"table of {name}"], of_term)

    def attention(v: Tensor) -> tuple[Tensor, Tensor]:
        return fused.fused_attention(
            leaves["q"], leaves["k"], v, maps, term_of("k"), term_of("q"), buckets("v"),
            padding.to(kind.device), dropout_p, seed,
        )  # fmt: skip

    leaves = {name: x.to(kind.device).requires_grad_() for name, x in inputs.items()}
    dropout_p = DROPOUT if kind.dropout else 0.0
    seed = torch.tensor([1], device=kind.device) if kind.dropout else None
    results = attention(leaves["v"])[: len(directions)]
    on_device = [direction.to(kind.device) for direction in directions.values()]
    gradients = torch.autograd.grad(results, list(leaves.values()), on_device)
    tensors = (*(x.detach() for x in results), *gradients)
    ours = dict(zip((*directions, *inputs), tensors, strict=True))

    kept = torch.ones(*q_shape, of_keys.tokens, dtype=torch.bool, device="cpu")
    if kind.dropout:
        kept = _kept(lambda v: attention(v)[0], leaves["v"])
        unpadded = kept[:-1].double()  # the last image has padding, whose weights are 0
        share = unpadded.mean().item()
        deviation = (DROPOUT * (1 - DROPOUT) / unpadded.numel()) ** 0.5
        if not abs(share - (1 - DROPOUT)) < 6 * deviation:
            return {"the share of weights that dropout keeps": abs(share - (1 - DROPOUT))}
    ids = {name: pair_bucket_ids(each, maps, name == "q") for name, each in settings.items()}
    wanted = _formula(inputs, ids, number_of.get("v"), padding, kept, directions, kind.dropout)
    return {
        name: ((ours[name].double().cpu() - x).abs().max() / x.abs().max()).item()
        for name, x in wanted.items()
    }


@torch.no_grad()
def _kept(attention: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
    """Return which weights dropout keeps, (B, H, Lq, Lk): values of 0 and 1 pick single weights."""
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
    ids: dict[str, Tensor],
    buckets: int | None,
    padding: Tensor,
    kept: Tensor,
    directions: dict[str, Tensor],
    dropout: bool,
) -> dict[str, Tensor]:
    """Compute output and gradients in float64 on the CPU, with logits and weights as tensors.

    Args:
        ids: of pairs for RPE on k, q and v; those of q as (keys, queries).
        buckets: the number that weights are summed into; None for no sums.
        directions: by name of the results.
    """
    leaves = {name: x.double().requires_grad_() for name, x in inputs.items()}
    logits = leaves["q"] @ leaves["k"].mT
    if "k" in ids:
        table = leaves["table of k"].expand(*logits.shape[:3], -1)
        logits = logits + table.gather(3, ids["k"].long().expand_as(logits))
    if "q" in ids:
        table = leaves["table of q"].expand(*logits.mT.shape[:3], -1)
        logits = logits + table.gather(3, ids["q"].long().expand_as(logits.mT)).mT
    weights = logits.masked_fill(padding[:, None, None], float("-inf")).softmax(-1)
    if dropout:
        weights = weights * kept / (1 - DROPOUT)
    results = [weights @ leaves["v"]]
    if buckets is not None:
        sums = weights.new_zeros(*weights.shape[:3], buckets)
        results.append(sums.scatter_add(3, ids["v"].long().expand_as(weights), weights))
    gradients = torch.autograd.grad(
        results, list(leaves.values()), [direction.double() for direction in directions.values()]
    )
    tensors = (*(x.detach() for x in results), *gradients)
    return dict(zip((*directions, *inputs), tensors, strict=True))
