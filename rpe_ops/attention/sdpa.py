"""Attention by torch's scaled_dot_product_attention, with RPE and masks as its attn_mask."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rpe_ops.functions import is_exporting
from rpe_ops.irpe import ContextualRPE, CrossRPE

from .call import AttentionCall, is_kind


def why_not(call: AttentionCall) -> str | None:
    """Return why the call is not supported: the weights never exist as a tensor."""
    if call.rpe_v is not None:
        return "RPE on values needs the weights"
    return why_formula(call)


def why_formula(call: AttentionCall) -> str | None:
    """Return why a caller needs the formula's own operators, or their weights; None if not."""
    if call.need_weights:
        return "need_weights asks for the weights"
    if is_exporting():
        return "exported graphs have the formula's operators, which all runtimes know"
    return None


def attend(call: AttentionCall) -> tuple[Tensor, None]:
    """Compute the output (B, H, Lq, D)."""
    # A contextual term comes out of `rpe_index`, whose backward pass does not read its result; a
    # bias term is an expanded view of a table.
    first = call.rpe_q if call.rpe_k is None else call.rpe_k
    fresh = is_kind(first, ContextualRPE) or is_kind(first, CrossRPE)
    out = F.scaled_dot_product_attention(
        call.q,
        call.k,
        call.v,
        attn_mask=add_terms(call.terms(), fresh),
        dropout_p=call.dropout_p,
        scale=1.0,  # q is scaled already
    )
    return out, None


def add_terms(terms: list[Tensor], fresh: bool) -> Tensor | None:
    """Add up tensors that broadcast; None if there are none.

    Args:
        fresh: the first was made for this sum, and no backward pass needs its values. If it has
            the shape of the sum, it is added to in place, which saves a tensor of (B, H, L, L).
    """
    if not terms:
        return None
    shape = torch.broadcast_shapes(*(term.shape for term in terms))
    total = terms[0]
    for term in terms[1:]:
        total = total.add_(term) if fresh and total.shape == shape else total + term
        fresh = True
    return total
