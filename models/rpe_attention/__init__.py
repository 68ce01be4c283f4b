from . import irpe
from .multi_head_attention import RPEMultiheadAttention
from .rpe_attention_function import rpe_multi_head_attention_forward

__all__ = ["RPEMultiheadAttention", "irpe", "rpe_multi_head_attention_forward"]
