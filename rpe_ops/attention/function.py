"""Attention with relative position encoding (RPE), as one function of queries, keys and values."""

import math
from typing import Literal, overload

import torch
from torch import Tensor, nn

from rpe_ops.functions import is_exporting
from rpe_ops.irpe import MapPair, TokenMap

from .backends import ATTENTION, attend
from .call import AttentionCall

Size = tuple[int, int]  # height and width


@overload
def rpe_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rpe_q: nn.Module | None = None,
    rpe_k: nn.Module | None = None,
    rpe_v: nn.Module | None = None,
    hw: Size | tuple[Size, Size] | None = None,
    skip: int | tuple[int, int] = 0,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    attention: str = "auto",
    need_weights: Literal[False] = False,
) -> Tensor: ...


@overload
def rpe_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rpe_q: nn.Module | None = None,
    rpe_k: nn.Module | None = None,
    rpe_v: nn.Module | None = None,
    hw: Size | tuple[Size, Size] | None = None,
    skip: int | tuple[int, int] = 0,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    attention: str = "auto",
    *,
    need_weights: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...


def rpe_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rpe_q: nn.Module | None = None,
    rpe_k: nn.Module | None = None,
    rpe_v: nn.Module | None = None,
    hw: Size | tuple[Size, Size] | None = None,
    skip: int | tuple[int, int] = 0,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    attention: str = "auto",
    need_weights: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute attention with RPE.

        q       = q scale
        logits  = q k^T + rpe_k(q) + rpe_q(k scale)^T
        weights = dropout(softmax(logits + masks))
        out     = weights v + rpe_v(weights)

    Args:
        q: (B, H, Lq, D).
        k, v: (B, H, Lk, D).
        rpe_q, rpe_k, rpe_v: RPE on queries, keys and values, modules made by `irpe.build_rpe`.
        hw: height and width of the map that the tokens are, row by row; two pairs, of queries and
            of keys, where they come from maps of their own (see `irpe.MapPair`); None for square
            ones. Of no meaning without RPE.
        skip: number of extra tokens, such as a class token, before those of the map; two numbers
            for queries and keys. With extra tokens RPE must be configured with skip > 0.
        key_padding_mask: (B, Lk), True (or -inf) where a key is padding.
        attn_mask: (Lq, Lk) or (B * H, Lq, Lk), True (or -inf) where attention is not allowed.
        dropout_p: probability with which a weight is dropped: 0 when not training.
        scale: None for 1 / sqrt(D).
        attention: how it is computed. "fused" looks RPE up inside one Triton kernel
            (`attention.fused`), "sdpa" passes RPE to torch's scaled_dot_product_attention as a term
            of the logits, "math" computes the formula above. "auto" is on CUDA devices fused where
            that is supported, expected to be faster (`attention.choice`) and has passed a trial
            (`attention.trial`), else sdpa; on CPUs a kernel of its own for training
            (`attention.cpu`), else sdpa. Where sdpa would need the weights, for the caller or for
            rpe_v, it is math.
        need_weights: return the weights, too; without them less memory is used.

    Returns:
        (B, H, Lq, D); with need_weights that and the weights after dropout, (B, H, Lq, Lk).

    Raises:
        ValueError: shapes do not fit, or fused attention is not supported.
    """
    if attention not in ATTENTION:
        raise ValueError(f"attention must be one of {', '.join(ATTENTION)}, is {attention!r}")
    fit = q.dim() == k.dim() == v.dim() == 4 and k.shape[:3] == v.shape[:3]
    if not fit or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"q, k and v are {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}: they must be "
            "(B, H, Lq, D) and twice (B, H, Lk, D)"
        )
    batch, heads, len_q, len_k = *q.shape[:3], k.shape[2]
    _check_mask("key_padding_mask", key_padding_mask, (batch, len_k))
    _check_mask("attn_mask", attn_mask, (len_q, len_k), (batch * heads, len_q, len_k))
    maps = None
    if not (rpe_q is rpe_k is rpe_v is None):
        maps = find_maps(q.shape[2], k.shape[2], hw, skip)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    rpe, masks = (rpe_q, rpe_k, rpe_v), (key_padding_mask, attn_mask)
    call = AttentionCall(q * scale, k, v, scale, maps, *rpe, *masks, need_weights, dropout_p)
    out, weights = attend(call, attention)
    return out if weights is None or not need_weights else (out, weights)


def _check_mask(name: str, mask: Tensor | None, *shapes: tuple[int, ...]) -> None:
    if mask is None:
        return
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(
            f"{name} is {mask.dtype}: it has to be bool, True where a key is left out, or floating "
            "point, which is added to the logits"
        )
    # Sizes of an exported graph are symbols, which a comparison would fix.
    if not is_exporting() and tuple(mask.shape) not in shapes:
        raise ValueError(f"{name} is {tuple(mask.shape)}, not {' or '.join(map(str, shapes))}")


def find_maps(
    len_q: int,
    len_k: int,
    hw: Size | tuple[Size, Size] | None,
    skip: int | tuple[int, int],
) -> MapPair:
    """Return the maps of queries and keys; see `rpe_attention` for the arguments.

    Raises:
        ValueError: their tokens are not len_q and len_k.
    """
    found = []
    skips = skip if isinstance(skip, tuple) else (skip, skip)
    sizes = hw if hw is not None and isinstance(hw[0], tuple) else (hw, hw)
    both = zip(("queries", "keys"), (len_q, len_k), sizes, skips, strict=True)
    for name, length, size, extra_tokens in both:
        if size is None:  # square
            size = (math.isqrt(max(length - extra_tokens, 0)),) * 2
        tokens = TokenMap(*size, extra_tokens)
        if tokens.tokens != length:
            extra = f" after {extra_tokens} extra tokens" if extra_tokens else ""
            raise ValueError(
                f"{length} {name} are not a map of {size[0]} x {size[1]}{extra}"
                + (": give hw, height and width" if hw is None else "")
            )
        found.append(tokens)
    return MapPair(*found)
