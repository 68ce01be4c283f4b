"""Multi-head attention with image relative position encoding (iRPE)."""

from rpe_ops import irpe
from rpe_ops.attention import ATTENTION

from .multi_head_attention import RPEMultiheadAttention
from .rpe_attention_function import rpe_multi_head_attention_forward

__all__ = ["ATTENTION", "RPEMultiheadAttention", "irpe", "rpe_multi_head_attention_forward"]
