"""How strong relative positions are: an encoding's table, laid out around a query."""

import torch
from torch import Tensor, nn

from models.rpe_attention.irpe import (
    BiasRPE,
    CrossRPE,
    RPESettings,
    ValueRPE,
    offset_buckets,
)

LETTERS = {"q": "queries", "k": "keys", "v": "values"}  # where encodings act


def settings_of(rpe: nn.Module) -> RPESettings:
    """Those of an encoding; of `cross` those of its rows."""
    return (rpe.rp_rows if isinstance(rpe, CrossRPE) else rpe).settings


def radius_of_all_buckets(settings: RPESettings) -> int:
    """Offsets in tokens from the query within which every bucket has a place."""
    return int(settings.gamma) + 2


def bucket_map(settings: RPESettings, radius: int, on_queries: bool) -> Tensor:
    """The bucket of each key around a query.

    Args:
        settings: of one table, not of `cross`.
        radius: offsets go from -radius to radius tokens.
        on_queries: of an encoding on queries. That one is looked up from the key's place: its
            offset is key - query, where others take query - key.

    Returns:
        (2 * radius + 1, 2 * radius + 1) int64; the key that lies dr rows below and dc columns to
        the right of the query stands at [radius + dr, radius + dc].
    """
    ids = offset_buckets(settings, radius + 1, radius + 1).long()
    return ids if on_queries else ids.flip(0, 1)


def reached_buckets(settings: RPESettings, short: int, long: int) -> Tensor:
    """Which buckets the offsets of feature maps have: (num_image_buckets,) bool.

    The others were never trained: they hold the random numbers that they started with.

    Args:
        settings: of one table, not of `cross`.
        short, long: sides in tokens of the largest map, which may be upright or not.
    """
    ids = offset_buckets(settings, long, long).long()
    across = ids[long - short : long + short - 1]
    upright = ids[:, long - short : long + short - 1]
    reached = torch.zeros(settings.num_image_buckets, dtype=torch.bool)
    reached[torch.cat([across.flatten(), upright.flatten()])] = True
    return reached


def encoding_map(
    rpe: nn.Module, radius: int, on_queries: bool, largest: tuple[int, int] | None = None
) -> Tensor:
    """What the table holds for each key around a query: (H or 1, D, S, S), S = 2 * radius + 1.

    A bias has D = 1; `cross` is the sum of its two tables. Places are those of `bucket_map`; with
    `largest`, those of buckets that no such map reaches hold NaN.

    Args:
        largest: see `reached_buckets`.
    """
    if isinstance(rpe, CrossRPE):
        rows, cols = (
            encoding_map(part, radius, on_queries, largest) for part in (rpe.rp_rows, rpe.rp_cols)
        )
        return rows + cols
    if isinstance(rpe, BiasRPE):
        table = rpe.lookup_table_bias[:, None]
    else:
        table = rpe.lookup_table_weight
        table = table.mT if isinstance(rpe, ValueRPE) else table
    ids = bucket_map(rpe.settings, radius, on_queries)
    found = table[:, :, ids]
    if largest is None:
        return found
    unknown = ~reached_buckets(rpe.settings, *largest)[ids]
    return found.masked_fill(unknown.to(found.device), torch.nan)


def strength(letter: str, rpe: nn.Module, x: Tensor | None) -> str:
    """What `strength_map` gives: "bias" or "mean", which are signed, or "norm"."""
    if settings_of(rpe).mode == "bias":
        return "bias"
    return "norm" if letter == "v" or x is None else "mean"


@torch.no_grad()
def strength_map(
    letter: str,
    rpe: nn.Module,
    radius: int,
    x: Tensor | None = None,
    largest: tuple[int, int] | None = None,
) -> Tensor:
    """How strong the encoding is for each key around a query.

    A bias is its own strength. A contextual encoding on keys or queries adds x . table[bucket] to
    the logits: with x, the mean of that over the tokens of x; without, the norm of table[bucket],
    which has no sign. On values it is always the norm.

    Args:
        letter: q, k or v: where the encoding acts.
        x: (1, H, L, D), what an encoding on keys or queries is called with: q or k / sqrt(D).
        largest: shorter and longer side in tokens of the largest map that the model was trained
            with: buckets that it does not reach are NaN.

    Returns:
        (H, S, S), or (1, S, S) where heads do not differ, S = 2 * radius + 1; places as in
        `bucket_map`.
    """
    maps = encoding_map(rpe, radius, letter == "q", largest)
    kind = strength(letter, rpe, x)
    if kind == "bias":
        return maps[:, 0]
    if kind == "norm":
        return maps.norm(dim=1)
    return (x[0].mean(1)[:, :, None, None] * maps).sum(1)
