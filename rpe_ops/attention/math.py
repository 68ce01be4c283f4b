"""Attention by its formula: supports everything, needs the most memory."""

import torch.nn.functional as F
from torch import Tensor

from .call import AttentionCall, look_up


def why_not(call: AttentionCall) -> None:
    """Support every call."""
    return


def attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Compute output (B, H, Lq, D) and weights (B, H, Lq, Lk)."""
    terms = call.terms()
    logits = call.q @ call.k.transpose(2, 3)
    for term in terms:
        logits += term
    weights = F.dropout(logits.softmax(dim=-1), call.dropout_p)
    out = weights @ call.v
    if call.rpe_v is not None:
        out = out + look_up(call.rpe_v, weights, call.maps)
    return out, weights
