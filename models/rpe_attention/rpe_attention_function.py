"""Multi-head attention with relative position encoding (RPE), as a function."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpe_ops.attention import find_maps
from rpe_ops.attention import rpe_attention as attention_of_heads
from rpe_ops.attention.linear import linear

Size = tuple[int, int]  # height and width


class Projections(NamedTuple):
    """The parameters that make q, k and v of each head, as torch.nn.MultiheadAttention has them.

    Attributes:
        num_heads: H.
        in_proj_weight: (3 * E, E); None where the three have weights of their own.
        in_proj_bias: (3 * E,) or None.
        bias_k, bias_v: (1, 1, E), a key and value that the layer adds, or None.
        add_zero_attn: add a key and value of zeros.
        q_proj_weight, k_proj_weight, v_proj_weight: (E, E), (E, kdim), (E, vdim), used without
            in_proj_weight.
    """

    num_heads: int
    in_proj_weight: Tensor | None
    in_proj_bias: Tensor | None
    bias_k: Tensor | None = None
    bias_v: Tensor | None = None
    add_zero_attn: bool = False
    q_proj_weight: Tensor | None = None
    k_proj_weight: Tensor | None = None
    v_proj_weight: Tensor | None = None


def rpe_multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    rpe_q: nn.Module | None = None,
    rpe_k: nn.Module | None = None,
    rpe_v: nn.Module | None = None,
    hw: Size | tuple[Size, Size] | None = None,
    attention: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Compute torch.nn.functional.multi_head_attention_forward with RPE.

    All arguments but the last five are torch's; the last five are those of `rpe_attention`, which
    has the shapes and the formula.
    """
    embed_dim = query.shape[-1]
    if embed_dim != embed_dim_to_check:
        raise ValueError(f"query has {embed_dim} features, the layer {embed_dim_to_check}")
    projections = Projections(
        num_heads,
        None if use_separate_proj_weight else in_proj_weight,
        in_proj_bias,
        bias_k,
        bias_v,
        add_zero_attn,
        q_proj_weight,
        k_proj_weight,
        v_proj_weight,
    )
    return rpe_attention(
        query,
        key,
        value,
        projections,
        out_proj_weight,
        out_proj_bias,
        dropout_p if training else 0.0,
        key_padding_mask,
        need_weights,
        attn_mask,
        rpe_q,
        rpe_k,
        rpe_v,
        hw,
        attention,
    )


def rpe_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    projections: Projections,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    dropout_p: float = 0.0,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    rpe_q: nn.Module | None = None,
    rpe_k: nn.Module | None = None,
    rpe_v: nn.Module | None = None,
    hw: Size | tuple[Size, Size] | None = None,
    attention: str = "auto",
    rope: nn.Module | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute multi-head attention with RPE.

        q       = (query Wq + bq) / sqrt(D), turned by rope as k is
        logits  = q k^T + rpe_k(q) + rpe_q(k / sqrt(D))^T
        weights = dropout(softmax(logits + masks))
        out     = weights v + rpe_v(weights)

    Args:
        query, key, value: (Lq, B, E), (Lk, B, kdim), (Lk, B, vdim).
        out_proj_weight, out_proj_bias: (E, E), (E,) or None.
        dropout_p: probability with which a weight is dropped.
        key_padding_mask: (B, Lk), True (or -inf) where a key is padding.
        attn_mask: (Lq, Lk) or (B * H, Lq, Lk), True (or -inf) where attention is not allowed.
        need_weights: also return the weights; without them less memory is used.
        rpe_q, rpe_k, rpe_v: RPE on queries, keys and values, modules made by `build_rpe`; on keys
            also a `continuous_bias.ContinuousBias`.
        hw: height and width of the feature map, after extra tokens if there are more; None for a
            square one without. Two pairs where queries and keys come from maps of their own.
        attention: how it is computed, see `rpe_ops.attention.rpe_attention`.
        rope: a `rotary.Rotary`, for queries and keys of one map; it acts before all else.

    Returns:
        Output (Lq, B, E), and the weights after dropout, averaged over heads, (B, Lq, Lk) or None.

    Raises:
        ValueError: shapes do not fit, or fused attention is not supported.
    """
    len_q, batch, embed_dim = query.shape
    if key.shape[:2] != value.shape[:2] or key.shape[1] != batch:
        raise ValueError(
            f"query, key and value are {tuple(query.shape)}, {tuple(key.shape)} and "
            f"{tuple(value.shape)}: lengths of key and value, and batch sizes, must agree"
        )
    q, k, v = project_heads(query, key, value, projections)
    added = k.shape[2] - key.shape[0]
    key_padding_mask, attn_mask = (_widened(mask, added) for mask in (key_padding_mask, attn_mask))
    if rope is not None:
        maps = find_maps(len_q, k.shape[2], hw, 0)
        if maps.queries != maps.keys:
            raise ValueError("rotary encoding is for queries and keys of one map, these have two")
        q, k = rope(q, k, maps.keys.height, maps.keys.width)
    attended = attention_of_heads(
        q,
        k,
        v,
        rpe_q,
        rpe_k,
        rpe_v,
        hw,
        _extra_tokens(len_q, key.shape[0], hw),
        key_padding_mask,
        attn_mask,
        dropout_p,
        attention=attention,
        need_weights=need_weights,
    )
    out, weights = attended if isinstance(attended, tuple) else (attended, None)
    rows = out.permute(2, 0, 1, 3).reshape(len_q * batch, embed_dim)
    out = linear(rows, out_proj_weight, out_proj_bias).view(len_q, batch, embed_dim)
    return out, None if weights is None else weights.mean(dim=1)


def _extra_tokens(len_q: int, len_k: int, hw: Size | tuple[Size, Size] | None) -> tuple[int, int]:
    """Return how many of the queries and of the keys are not of the map."""
    if hw is None:
        return 0, 0
    of_queries, of_keys = hw if isinstance(hw[0], tuple) else (hw, hw)
    return len_q - of_queries[0] * of_queries[1], len_k - of_keys[0] * of_keys[1]


def _widened(mask: Tensor | None, added: int) -> Tensor | None:
    """Allow the keys that the layer adds itself, which come last; bytes become booleans."""
    if mask is None:
        return None
    if mask.dtype == torch.uint8:  # of code for PyTorch before 1.2
        mask = mask.bool()
    return F.pad(mask, (0, added)) if added else mask


def project_heads(
    query: Tensor, key: Tensor, value: Tensor, projections: Projections
) -> tuple[Tensor, Tensor, Tensor]:
    """Project query, key and value (see `rpe_attention`) to q, k and v of each head.

    Returns:
        (B, H, Lq, D) and twice (B, H, Lk, D). The keys that the layer adds itself come last.
    """
    heads, in_weight, in_bias, bias_k, bias_v, add_zero_attn, *separate_weights = projections
    # Where inputs are the same tensor, one product with the joined weights is faster than three.
    if in_weight is not None and query is key and key is value:
        q, k, v = _heads_of_each(linear(query, in_weight, in_bias), 3, heads)
    elif in_weight is not None and query is key:
        sizes = [2 * query.shape[-1], query.shape[-1]]
        qk_weight, v_weight = in_weight.split(sizes)
        qk_bias, v_bias = (None, None) if in_bias is None else in_bias.split(sizes)
        q, k = _heads_of_each(linear(query, qk_weight, qk_bias), 2, heads)
        v = _split_heads(linear(value, v_weight, v_bias), heads)
    else:
        separate = [weight for weight in separate_weights if weight is not None]
        weights = separate if in_weight is None else in_weight.chunk(3)
        biases = (None,) * 3 if in_bias is None else in_bias.chunk(3)
        inputs = zip((query, key, value), weights, biases, strict=True)
        q, k, v = (_split_heads(linear(*each), heads) for each in inputs)

    if bias_k is not None and bias_v is not None:
        k, v = (
            torch.cat([t, _split_heads(added, heads).expand(t.shape[0], -1, -1, -1)], dim=2)
            for t, added in ((k, bias_k), (v, bias_v))
        )
    if add_zero_attn:
        k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
    return q, k, v


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(L, B, H * D) -> (B, H, L, D), a view."""
    return x.unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3)


def _heads_of_each(x: Tensor, count: int, num_heads: int) -> tuple[Tensor, ...]:
    """(L, B, count * H * D) -> `count` times (B, H, L, D), views."""
    return x.unflatten(-1, (count, num_heads, -1)).permute(2, 1, 3, 0, 4).unbind()
