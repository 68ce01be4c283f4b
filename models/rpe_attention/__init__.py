from . import irpe
from .multi_head_attention import RPEMultiheadAttention
from .rpe_attention_function import ATTENTION, rpe_multi_head_attention_forward

__all__ = ["ATTENTION", "RPEMultiheadAttention", "irpe", "rpe_multi_head_attention_forward"]
