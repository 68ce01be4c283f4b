"""Multi-head attention with relative position terms, as a function."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    hw: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """torch.nn.functional.multi_head_attention_forward with relative position terms.

        q       = (query Wq + bq) / sqrt(D)
        logits  = q k^T + rpe_k(q) + rpe_q(k / sqrt(D))^T
        weights = dropout(softmax(logits + masks))
        out     = weights v + rpe_v(weights)

    Args:
        query, key, value: (Lq, B, E), (Lk, B, kdim), (Lk, B, vdim).
        key_padding_mask: (B, Lk), True (or -inf) where a key is padding.
        attn_mask: (Lq, Lk) or (B * H, Lq, Lk), True (or -inf) where attention is not allowed.
        need_weights: return the weights too; without them less memory is used.
        rpe_q, rpe_k, rpe_v: modules made by `build_rpe`; they want Lq == Lk.
        hw: height and width of the feature map; None for a square one.

    Returns:
        output (Lq, B, E), and the weights after dropout averaged over heads (B, Lq, Lk) or None.

    Raises:
        ValueError: shapes that do not fit.
    """
    len_q, batch, embed_dim = query.shape
    if embed_dim != embed_dim_to_check:
        raise ValueError(f"query has {embed_dim} features, the layer {embed_dim_to_check}")
    if key.shape[:2] != value.shape[:2] or key.shape[1] != batch:
        raise ValueError(
            f"query, key and value are {tuple(query.shape)}, {tuple(key.shape)} and "
            f"{tuple(value.shape)}: lengths of key and value, and batch sizes, must agree"
        )
    has_rpe = any(rpe is not None for rpe in (rpe_q, rpe_k, rpe_v))
    if has_rpe and key.shape[0] != len_q:
        raise ValueError(
            f"relative positions need as many keys as queries, got {key.shape[0]} and {len_q}"
        )

    if use_separate_proj_weight:
        projections = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        projections = in_proj_weight.chunk(3)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    if not use_separate_proj_weight and query is key and key is value:
        q, k, v = F.linear(query, in_proj_weight, in_proj_bias).chunk(3, dim=-1)
    else:
        q, k, v = map(F.linear, (query, key, value), projections, biases)

    if bias_k is not None:
        k = torch.cat([k, bias_k.expand(-1, batch, -1)])
        v = torch.cat([v, bias_v.expand(-1, batch, -1)])
    if add_zero_attn:
        k, v = (F.pad(t, (0, 0, 0, 0, 0, 1)) for t in (k, v))
    q, k, v = (_split_heads(t, num_heads) for t in (q, k, v))

    scale = q.shape[-1] ** -0.5
    q = q * scale
    masks = _merge_masks(key_padding_mask, attn_mask, k, len_q)
    height, width = hw if hw is not None else (None, None)
    terms = [] if masks is None else [masks]
    if rpe_k is not None:
        terms.append(rpe_k(q, height, width))
    if rpe_q is not None:
        terms.append(rpe_q(k * scale, height, width).transpose(2, 3))

    dropout_p = dropout_p if training else 0.0
    if need_weights or rpe_v is not None:
        logits = q @ k.transpose(2, 3)
        for term in terms:
            logits += term
        weights = F.dropout(logits.softmax(dim=-1), dropout_p)
        out = weights @ v
        if rpe_v is not None:
            out = out + rpe_v(weights, height, width)
    else:
        bias = sum(terms[1:], terms[0]) if terms else None
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout_p, scale=1.0
        )

    out = out.permute(2, 0, 1, 3).reshape(len_q, batch, embed_dim)
    out = F.linear(out, out_proj_weight, out_proj_bias)
    return out, weights.mean(dim=1) if need_weights else None


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(L, B, H * D) -> (B, H, L, D), a view."""
    return x.unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3)


def _merge_masks(
    key_padding_mask: Tensor | None, attn_mask: Tensor | None, k: Tensor, len_q: int
) -> Tensor | None:
    """Both masks as one additive term (B or 1, H or 1, Lq or 1, Lk); None without a mask.

    Keys that the layer added itself (bias_k, the zero key) stand behind the masked ones and
    are never masked.
    """
    batch, num_heads, len_k, _ = k.shape
    merged = None
    if key_padding_mask is not None:
        merged = _additive(key_padding_mask, k, len_k)[:, None, None, :]
    if attn_mask is not None:
        term = _additive(attn_mask, k, len_k)
        if term.dim() == 3:
            term = term.view(batch, num_heads, len_q, len_k)
        merged = term if merged is None else merged + term
    return merged


def _additive(mask: Tensor, like: Tensor, len_k: int) -> Tensor:
    """A boolean mask as 0 and -inf, an additive one as it is, padded with 0 to len_k keys."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
    return F.pad(mask.to(like.dtype), (0, len_k - mask.shape[-1]))
