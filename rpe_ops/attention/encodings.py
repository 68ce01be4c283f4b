"""RPE that is looked up part by part, so that no tensor of (B, H, Lq, Lk) is made of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rpe_ops.functions import rpe_index, rpe_index_sum
from rpe_ops.irpe import ContextualRPE, CrossRPE, MapPair, ValueRPE

from .call import AttentionCall, has_hooks, is_kind, look_up

Part = tuple[slice, slice]  # of the batch, and of the heads


class OnLogits(NamedTuple):
    """Contextual RPE on keys or queries: a term of the logits.

    Its tables, products of tokens and buckets, are (B, H, L, N) each, two for the method cross.

    Attributes:
        ids: of each table's buckets, (L, number of the other tokens).
        by_keys: whether the tokens are the keys: then the term comes as (key, query).
    """

    ids: tuple[Tensor, ...]
    by_keys: bool

    def add_to(self, logits: Tensor, tables: Sequence[Tensor], part: Part) -> None:
        """Look up a part of the tables, and add it to the logits of this part in place."""
        total, *rest = (
            rpe_index(table[part], ids) for table, ids in zip(tables, self.ids, strict=True)
        )
        for term in rest:
            total += term
        logits += total.mT if self.by_keys else total

    def sum_into(self, table_grads: Sequence[Tensor], grad_logits: Tensor, part: Part) -> None:
        """Write a part of each table's gradient from the gradient of the logits of this part."""
        grad = grad_logits.mT if self.by_keys else grad_logits
        for table_grad, ids in zip(table_grads, self.ids, strict=True):
            table_grad[part] = rpe_index_sum(grad, ids, table_grad.shape[3])


class OnValues(NamedTuple):
    """RPE on values: a weighted sum of table rows, added to the output.

    Attributes:
        table: (H or 1, N, D), of the dtype of the weights.
        ids: (Lq, Lk).
    """

    table: Tensor
    ids: Tensor

    def of(self, weights: Tensor, heads: slice) -> Tensor:
        """Return the sum (b, h, Lq, D) for weights (b, h, Lq, Lk) of these heads."""
        return self._sums(weights) @ self._rows(heads)

    def weights_grad(self, grad: Tensor, heads: slice) -> Tensor:
        """Return the gradient of the weights from that of the sum (b, h, Lq, D)."""
        return rpe_index(grad @ self._rows(heads).mT, self.ids)

    def table_grad(self, weights: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient of the rows of these heads, (h or 1, N, D), in float32 or more."""
        products = self._sums(weights).mT @ grad
        dtype = wide(products.dtype)
        if self.table.shape[0] == 1:
            return products.sum((0, 1), dtype=dtype)[None]
        return products.sum(0, dtype=dtype)

    def rows_of(self, heads: slice) -> slice:
        """Return which rows of the table belong to heads: all share one, or each has its own."""
        return slice(0, 1) if self.table.shape[0] == 1 else heads

    def _rows(self, heads: slice) -> Tensor:
        return self.table[self.rows_of(heads)]

    def _sums(self, weights: Tensor) -> Tensor:
        return rpe_index_sum(weights, self.ids, self.table.shape[1])


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for the dtypes of 16 bits, whose sums would lose too much, else the same."""
    return torch.promote_types(dtype, torch.float32)


LookedUp = tuple[OnLogits, tuple[Tensor, ...]]  # with its tables


def on_logits(call: AttentionCall) -> tuple[list[LookedUp], list[Tensor]]:
    """Return what RPE and masks add to the logits of a call, without making contextual terms.

    Returns:
        Contextual RPE, and all other terms, which broadcast to (B, H, Lq, Lk).
    """
    looked_up: list[LookedUp] = []
    terms: list[Tensor] = []
    for rpe, by_keys in ((call.rpe_k, False), (call.rpe_q, True)):
        if rpe is None:
            continue
        x = call.k * call.scale if by_keys else call.q
        parts = _parts(rpe, ContextualRPE)
        if parts:
            tables = tuple(part.table(x) for part in parts)
            looked_up.append((OnLogits(_ids(parts, x, call.maps, by_keys), by_keys), tables))
        else:
            term = look_up(rpe, x, call.maps, by_keys)
            terms.append(term.mT if by_keys else term)
    mask = call.mask()
    return looked_up, terms if mask is None else [*terms, mask]


def knows_values(call: AttentionCall) -> bool:
    """Return whether a call has no RPE on values, or one that `on_values` can take apart."""
    return call.rpe_v is None or bool(_parts(call.rpe_v, ValueRPE))


def on_values(call: AttentionCall) -> list[OnValues] | None:
    """Return the RPE on values of a call; None if it is a module of other origin."""
    if call.rpe_v is None:
        return []
    parts = _parts(call.rpe_v, ValueRPE)
    if not parts:
        return None
    tables = [part.lookup_table_weight.to(call.v.dtype) for part in parts]
    return [OnValues(*pair) for pair in zip(tables, _ids(parts, call.q, call.maps), strict=True)]


def _parts(rpe: nn.Module, kind: type[nn.Module]) -> list[Any]:
    """Return the one or two modules of a kind that RPE is made of; none if it is another."""
    parts = [rpe.rp_rows, rpe.rp_cols] if is_kind(rpe, CrossRPE) else [rpe]
    known = all(is_kind(part, kind) for part in parts)
    return parts if known and not any(map(has_hooks, (rpe, *parts))) else []


def _ids(
    parts: list[Any], x: Tensor, maps: MapPair | None, by_keys: bool = False
) -> tuple[Tensor, ...]:
    if maps is None or maps.queries == maps.keys:  # the ids that all layers share
        height, width = (None, None) if maps is None else maps.keys[:2]
        return tuple(part.ids(x, height, width) for part in parts)
    return tuple(part.ids(x, None, None, maps, by_keys) for part in parts)
