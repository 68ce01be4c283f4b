"""Blocks of a vision transformer whose attention has image relative position encoding (iRPE)."""

from typing import Any, NamedTuple

import torch
from timm.layers import Attention
from timm.models import vision_transformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rpe_ops.attention import ATTENTION, rpe_attention
from rpe_ops.irpe import RPEConfig, TokenMap, build_rpe


class MapAndMask(NamedTuple):
    """What blocks are told besides the tokens themselves.

    timm's models hand `attn_mask` on from block to block, so that this takes its place. Nothing is
    noted in the model: it may run on maps of several sizes at a time, and gradient checkpointing
    computes a block again with the map that it had.

    Attributes:
        tokens: height and width of the map, and how many extra tokens come before it.
        mask: timm's attn_mask, broadcastable to (B, H, L, L): boolean, True where a query may
            attend to a key, or numbers that are added to the logits; None for no mask.
    """

    tokens: TokenMap
    mask: Tensor | None


class RPEAttention(Attention):
    """timm's attention with iRPE on queries, keys and values.

        q       = q / sqrt(D)
        weights = dropout(softmax(q k^T + rpe_k(q) + rpe_q(k / sqrt(D))^T))
        out     = weights v + rpe_v(weights)

    Parameters have timm's names. `encode` adds rpe_q, rpe_k and rpe_v, which are None before.
    """

    norm: nn.Module

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.attention = "auto"
        self.rpe_q: nn.Module | None = None
        self.rpe_k: nn.Module | None = None
        self.rpe_v: nn.Module | None = None

    def encode(self, rpe_config: RPEConfig | None, attention: str) -> None:
        """Build the tables of the encoding, all 0; timm's constructor does not hand these on.

        Args:
            rpe_config: from `rpe_ops.irpe.get_rpe_config`; None for no encoding.
            attention: how attention is computed, one of `rpe_ops.attention.ATTENTION`.

        Raises:
            ValueError: there is no such attention.
        """
        if attention not in ATTENTION:
            raise ValueError(f"attention must be one of {', '.join(ATTENTION)}, is {attention!r}")
        self.attention = attention
        tables = build_rpe(rpe_config, self.head_dim, self.num_heads)
        weight = self.qkv.weight
        self.rpe_q, self.rpe_k, self.rpe_v = (
            None if table is None else table.to(weight.device, weight.dtype) for table in tables
        )

    def forward(
        self,
        x: Tensor,
        attn_mask: MapAndMask | Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Compute attention of tokens x (B, L, C) -> (B, L, C).

        Args:
            attn_mask: the map of the tokens; without an encoding also timm's mask or None.
            is_causal: whether tokens attend to those before them only.

        Raises:
            ValueError: there is an encoding, and the map is not known or does not fit.
        """
        if isinstance(attn_mask, MapAndMask):
            (height, width, skip), mask = attn_mask
            hw: tuple[int, int] | None = (height, width)
        else:
            hw, skip, mask = None, 0, attn_mask
            if not (self.rpe_q is self.rpe_k is self.rpe_v is None):
                raise ValueError(
                    "relative positions need the map's height and width: call the model, or blocks "
                    "with attn_mask=MapAndMask(TokenMap(height, width, skip), None)"
                )
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = rpe_attention(
            self.q_norm(q), self.k_norm(k), v, self.rpe_q, self.rpe_k, self.rpe_v, hw=hw, skip=skip,
            attn_mask=_forbidden(mask, is_causal, q),
            dropout_p=self.attn_drop.p if self.training else 0.0,
            scale=self.scale, attention=self.attention,
        )  # fmt: skip
        x = self.norm(x.transpose(1, 2).reshape(batch, length, -1))
        return self.proj_drop(self.proj(x))


class Block(vision_transformer.Block):
    """timm's block with `RPEAttention`.

    Args:
        rpe_config, attention: see `RPEAttention.encode`.
        options: of timm's block.

    Attributes:
        grad_checkpointing: whether activations are computed again for the gradient.
    """

    attn: RPEAttention

    def __init__(self, *, rpe_config: RPEConfig | None, attention: str, **options: Any):
        super().__init__(**{**options, "attn_layer": RPEAttention})
        self.attn.encode(rpe_config, attention)
        self.grad_checkpointing = False

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Compute tokens x (B, L, C) -> (B, L, C); for the other arguments see `RPEAttention`."""
        compute = super().forward
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(compute, x, *arguments, use_reentrant=False, **options)
        return compute(x, *arguments, **options)


def _forbidden(mask: Tensor | None, is_causal: bool, q: Tensor) -> Tensor | None:
    """Turn timm's mask into one that is True (or negative) where attention is not allowed.

    Returns:
        (L, L) or (B * H, L, L); None for no mask.
    """
    batch, heads, length, _ = q.shape
    if is_causal:
        allowed = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
        if mask is None:
            mask = allowed
        elif mask.dtype == torch.bool:
            mask = mask & allowed
        else:
            mask = mask.masked_fill(~allowed, float("-inf"))
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = ~mask
    if mask.dim() > 2:
        return mask.expand(batch, heads, length, length).reshape(-1, length, length)
    return mask.expand(length, length)
