"""The input of attention backends, and what RPE and masks add to the logits."""

import torch
from torch import Tensor, nn

from rpe_ops.irpe import MapPair


class AttentionCall:
    """One call of attention, after the projections.

    Attributes:
        q: (B, H, Lq, D), multiplied by `scale` already.
        k, v: (B, H, Lk, D).
        scale: 1 / sqrt(D), or another number; RPE on queries is of the keys times `scale`.
        maps: of queries and keys; None without RPE.
        rpe_q, rpe_k, rpe_v, key_padding_mask, attn_mask, dropout_p: see `rpe_attention`.
        need_weights: whether `attend` has to return the weights.
    """

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        maps: MapPair | None = None,
        rpe_q: nn.Module | None = None,
        rpe_k: nn.Module | None = None,
        rpe_v: nn.Module | None = None,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        need_weights: bool = False,
        dropout_p: float = 0.0,
    ):
        self.q, self.k, self.v = q, k, v
        self.scale = scale
        self.maps = maps
        self.rpe_q, self.rpe_k, self.rpe_v = rpe_q, rpe_k, rpe_v
        self.key_padding_mask, self.attn_mask = key_padding_mask, attn_mask
        self.need_weights = need_weights
        self.dropout_p = dropout_p
        self._terms: list[Tensor] | None = None

    def terms(self) -> list[Tensor]:
        """Return what is added to the logits q k^T: each broadcasts to (B, H, Lq, Lk).

        Computed on first use: the fused backend never needs tensors of that size.
        """
        if self._terms is None:
            terms = rpe_terms(self.q, self.k, self.scale, self.maps, self.rpe_q, self.rpe_k)
            mask = self.mask()
            self._terms = terms if mask is None else [*terms, mask]
        return self._terms

    def mask(self) -> Tensor | None:
        """Return both masks as one term of the logits; see `merge_masks`."""
        return merge_masks(self.key_padding_mask, self.attn_mask, self.k, self.q.shape[2])


def rpe_terms(
    q: Tensor,
    k: Tensor,
    scale: float,
    maps: MapPair | None,
    rpe_q: nn.Module | None,
    rpe_k: nn.Module | None,
) -> list[Tensor]:
    """Return what RPE adds to the logits: none to two of (B or 1, H, Lq, Lk).

    Args:
        q: (B, H, Lq, D), multiplied by `scale` already.
        k: (B, H, Lk, D).
        maps: of queries and keys.
    """
    terms = []
    if rpe_k is not None:
        terms.append(look_up(rpe_k, q, maps))
    if rpe_q is not None:
        # The key looks up its bucket of the query, so the term comes as (key, query).
        terms.append(look_up(rpe_q, k * scale, maps, by_keys=True).transpose(2, 3))
    return terms


def look_up(rpe: nn.Module, x: Tensor, maps: MapPair | None, by_keys: bool = False) -> Tensor:
    """Call an RPE module.

    Modules of other origin, which know height and width alone, serve where there is one map.
    """
    if maps is None or maps.queries == maps.keys:
        return rpe(x, *(() if maps is None else maps.keys[:2]))
    return rpe(x, maps=maps, by_keys=by_keys)


def is_kind(rpe: object, kind: type[nn.Module]) -> bool:
    """Return whether a module is of a class of irpe.py, be it of a copy of that file."""
    own = type(rpe)
    return own is kind or (own.__name__, own.__module__.rpartition(".")[2]) == (
        kind.__name__, "irpe"
    )  # fmt: skip


def has_hooks(rpe: nn.Module) -> bool:
    """Return whether a module has to be called, as others do things then, such as pruning."""
    return bool(
        rpe._forward_pre_hooks or rpe._forward_hooks
        or rpe._backward_pre_hooks or rpe._backward_hooks
    )  # fmt: skip


def merge_masks(
    key_padding_mask: Tensor | None, attn_mask: Tensor | None, k: Tensor, len_q: int
) -> Tensor | None:
    """Merge both masks to one term of the logits.

    Args:
        key_padding_mask: (B, Lk), True or -inf on padding.
        attn_mask: (Lq, Lk) or (B * H, Lq, Lk), True or -inf where not allowed.
        k: (B, H, Lk, D).

    Returns:
        (B or 1, H or 1, Lq or 1, Lk); None without a mask.
    """
    batch, num_heads, len_k, _ = k.shape
    merged = None
    if key_padding_mask is not None:
        merged = additive_mask(key_padding_mask, k.dtype).view(batch, 1, 1, len_k)
    if attn_mask is not None:
        term = additive_mask(attn_mask, k.dtype)
        if term.dim() == 3:
            term = term.view(batch, num_heads, len_q, len_k)
        merged = term if merged is None else merged + term
    return merged


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Make a boolean mask 0 and -inf, keep an additive one."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
    return mask.to(dtype)
