"""Multi-head attention with relative position terms, as a function."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.linear import linear
from rpe_ops import is_exporting

from .backends.cpu import cpu_attention
from .backends.fused import fused_attention, rpe_term, why_not_fused
from .irpe import ContextualRPE, CrossRPE

ATTENTION = ("auto", "sdpa", "fused", "math")


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
    attention: str = "auto",
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
        attention: how it is computed. "fused" looks relative positions up inside one kernel (see
            `fused_attention`), "sdpa" hands them to torch's scaled_dot_product_attention as a
            term of the logits, "math" writes the logits down. "auto" is fused on CUDA devices
            where that is supported, `cpu_attention` in training on CPUs, sdpa elsewhere. Where
            weights are needed, for the caller or for rpe_v, auto and sdpa are math.

    Returns:
        output (Lq, B, E), and the weights after dropout averaged over heads (B, Lq, Lk) or None.

    Raises:
        ValueError: shapes that do not fit, or fused attention where it is not supported.
    """
    if attention not in ATTENTION:
        raise ValueError(f"attention must be one of {', '.join(ATTENTION)}, is {attention!r}")
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

    q, k, v = project_heads(
        query, key, value, num_heads, in_proj_weight, in_proj_bias, bias_k, bias_v, add_zero_attn,
        use_separate_proj_weight, q_proj_weight, k_proj_weight, v_proj_weight,
    )  # fmt: skip
    dropout_p = dropout_p if training else 0.0
    size = hw
    if has_rpe and size is None:
        size = (math.isqrt(len_q),) * 2
    fused = attention == "fused" or (attention == "auto" and q.is_cuda)
    if fused:
        reason = why_not_fused(
            q, k, size, rpe_q, rpe_k, rpe_v, key_padding_mask, attn_mask, need_weights, dropout_p
        )
        if reason is not None and attention == "fused":
            raise ValueError(f"fused attention is not supported here: {reason}")
        fused = reason is None

    if fused:
        term_k = None if rpe_k is None else rpe_term(rpe_k, q, *size)
        term_q = None if rpe_q is None else rpe_term(rpe_q, k * k.shape[-1] ** -0.5, *size)
        out = fused_attention(q, k, v, size, term_k, term_q, key_padding_mask, dropout_p)
    else:
        terms = position_terms(q, k, size, rpe_q, rpe_k)
        masks = merge_masks(key_padding_mask, attn_mask, k, len_q)
        if masks is not None:
            terms.append(masks)
        if need_weights or rpe_v is not None or attention == "math" or is_exporting():
            logits = q @ k.transpose(2, 3)
            for term in terms:
                logits += term
            weights = F.dropout(logits.softmax(dim=-1), dropout_p)
            out = weights @ v
            if rpe_v is not None:
                out = out + rpe_v(weights, *size)
        elif attention == "auto" and _wants_cpu_attention(q, terms, dropout_p):
            out = cpu_attention(q, k, v, terms, dropout_p)
        else:
            fresh = isinstance(rpe_q if rpe_k is None else rpe_k, ContextualRPE | CrossRPE)
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=_add_up(terms, fresh), dropout_p=dropout_p, scale=1.0
            )

    out = out.permute(2, 0, 1, 3).reshape(len_q, batch, embed_dim)
    out = linear(out, out_proj_weight, out_proj_bias)
    return out, weights.mean(dim=1) if need_weights else None


def project_heads(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    use_separate_proj_weight: bool,
    q_proj_weight: Tensor | None,
    k_proj_weight: Tensor | None,
    v_proj_weight: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of each head, (B, H, L, D), of what `rpe_multi_head_attention_forward` takes.

    q is scaled by 1 / sqrt(D); k and v have the keys that the layer adds itself behind the others.
    """
    if use_separate_proj_weight:
        projections = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        projections = in_proj_weight.chunk(3)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    if not use_separate_proj_weight and query is key and key is value:
        q, k, v = linear(query, in_proj_weight, in_proj_bias).chunk(3, dim=-1)
    elif not use_separate_proj_weight and query is key:
        weights, shifts = (
            (None, None) if both is None else both.tensor_split([2 * query.shape[-1]])
            for both in (in_proj_weight, in_proj_bias)
        )
        q, k = linear(query, weights[0], shifts[0]).chunk(2, dim=-1)
        v = linear(value, weights[1], shifts[1])
    else:
        q, k, v = map(linear, (query, key, value), projections, biases)

    if bias_k is not None:
        k = torch.cat([k, bias_k.expand(-1, key.shape[1], -1)])
        v = torch.cat([v, bias_v.expand(-1, key.shape[1], -1)])
    if add_zero_attn:
        k, v = (F.pad(t, (0, 0, 0, 0, 0, 1)) for t in (k, v))
    q, k, v = (_split_heads(t, num_heads) for t in (q, k, v))
    return q * q.shape[-1] ** -0.5, k, v


def position_terms(
    q: Tensor,
    k: Tensor,
    size: tuple[int, int] | None,
    rpe_q: nn.Module | None,
    rpe_k: nn.Module | None,
) -> list[Tensor]:
    """What relative positions add to the logits: none to two of (B or 1, H, L, L).

    Args:
        q, k: (B, H, L, D) from `project_heads`.
        size: height and width of the feature map.
    """
    terms = []
    if rpe_k is not None:
        terms.append(rpe_k(q, *size))
    if rpe_q is not None:
        terms.append(rpe_q(k * k.shape[-1] ** -0.5, *size).transpose(2, 3))
    return terms


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(L, B, H * D) -> (B, H, L, D), a view."""
    return x.unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3)


def _wants_cpu_attention(q: Tensor, terms: list[Tensor], dropout_p: float) -> bool:
    """On CPUs sdpa is fused unless there is dropout or a term that is trained."""
    if q.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return dropout_p > 0 or any(term.requires_grad for term in terms)


def _add_up(terms: list[Tensor], fresh: bool) -> Tensor | None:
    """Sum of tensors that broadcast; None of none.

    With `fresh` the first was made for this sum, and no backward needs its values: if it has the
    shape of the sum it becomes the sum, for a second tensor of that size is much memory.
    """
    if not terms:
        return None
    shape = torch.broadcast_shapes(*(term.shape for term in terms))
    total = terms[0]
    for term in terms[1:]:
        total = total.add_(term) if fresh and total.shape == shape else total + term
        fresh = True
    return total


def merge_masks(
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
