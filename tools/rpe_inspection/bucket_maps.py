"""Lay out the lookup tables of relative position encodings (RPE) around a query."""

import torch
from torch import Tensor, nn

from rpe_ops.irpe import BiasRPE, CrossRPE, RPESettings, ValueRPE, offset_buckets

LETTERS = {"q": "queries", "k": "keys", "v": "values"}  # where RPE acts


def rpe_settings(rpe: nn.Module) -> RPESettings:
    """Return the settings of an RPE module, for `cross` those of its rows."""
    return (rpe.rp_rows if isinstance(rpe, CrossRPE) else rpe).settings


def full_radius(settings: RPESettings) -> int:
    """Return the offset in tokens from the query within which all buckets occur."""
    return int(settings.gamma) + 2


def bucket_map(settings: RPESettings, radius: int, on_queries: bool) -> Tensor:
    """Return the bucket of each key around a query.

    Args:
        settings: of one table, not of `cross`.
        radius: offsets go from -radius to radius tokens.
        on_queries: RPE on queries is looked up from the key's place: its offset is key - query,
            where RPE on keys and values has query - key.

    Returns:
        (2 * radius + 1, 2 * radius + 1) int64; the key dr rows below and dc columns to the right of
        the query is at [radius + dr, radius + dc].
    """
    ids = offset_buckets(settings, radius + 1, radius + 1).long()
    return ids if on_queries else ids.flip(0, 1)


def reached_buckets(settings: RPESettings, short: int, long: int) -> Tensor:
    """Return which buckets occur in feature maps: (num_image_buckets,) bool.

    The others were never trained: they still hold their random initial values.

    Args:
        settings: of one table, not of `cross`.
        short, long: sides in tokens of the largest map, which may be landscape or portrait.
    """
    ids = offset_buckets(settings, long, long).long()
    landscape = ids[long - short : long + short - 1]
    portrait = ids[:, long - short : long + short - 1]
    reached = torch.zeros(settings.num_image_buckets, dtype=torch.bool)
    reached[torch.cat([landscape.flatten(), portrait.flatten()])] = True
    return reached


def table_map(
    rpe: nn.Module, radius: int, on_queries: bool, largest: tuple[int, int] | None = None
) -> Tensor:
    """Return the table's entry for each key around a query: (H or 1, D, S, S), S = 2 * radius + 1.

    A bias has D = 1; `cross` is the sum of its two tables.

    Args:
        largest: sides as for `reached_buckets`; buckets that are not reached become NaN.
    """
    if isinstance(rpe, CrossRPE):
        rows, cols = (
            table_map(part, radius, on_queries, largest) for part in (rpe.rp_rows, rpe.rp_cols)
        )
        return rows + cols
    if isinstance(rpe, BiasRPE):
        table = rpe.lookup_table_bias[:, None]
    else:
        table = rpe.lookup_table_weight
        table = table.mT if isinstance(rpe, ValueRPE) else table
    ids = bucket_map(rpe.settings, radius, on_queries)
    entries = table[:, :, ids]
    if largest is None:
        return entries
    untrained = ~reached_buckets(rpe.settings, *largest)[ids]
    return entries.masked_fill(untrained.to(entries.device), torch.nan)


def strength_kind(letter: str, rpe: nn.Module, x: Tensor | None) -> str:
    """Return what `strength_map` computes: "bias" or "mean", which are signed, or "norm"."""
    if rpe_settings(rpe).mode == "bias":
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
    """Return how strong RPE is for each key around a query.

    A bias is its own strength. Contextual RPE on keys or queries adds x . table[bucket] to the
    logits: the strength is the mean of that over the tokens of x; without x, and on values, it is
    the norm of table[bucket], which has no sign.

    Args:
        letter: q, k or v: where the RPE acts.
        x: (1, H, L, D), the input of RPE on keys or queries: q or k / sqrt(D).
        largest: shorter and longer side in tokens of the largest map of the training: buckets that
            it does not reach become NaN.

    Returns:
        (H, S, S), or (1, S, S) where heads share a table, S = 2 * radius + 1; the key dr rows below
        and dc columns to the right of the query is at [..., radius + dr, radius + dc].
    """
    maps = table_map(rpe, radius, letter == "q", largest)
    kind = strength_kind(letter, rpe, x)
    if kind == "bias":
        return maps[:, 0]
    if kind == "norm":
        return maps.norm(dim=1)
    return (x[0].mean(1)[:, :, None, None] * maps).sum(1)
