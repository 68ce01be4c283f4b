"""Attention with relative position encoding (RPE): `rpe_attention`, and the ways to compute it."""

from .backends import ATTENTION
from .function import find_maps, rpe_attention

__all__ = ["ATTENTION", "find_maps", "rpe_attention"]
