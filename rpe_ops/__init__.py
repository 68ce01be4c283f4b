"""The two operators of image relative position encoding; each is the other's adjoint."""

from .rpe_index import rpe_index, rpe_index_sum

__all__ = ["rpe_index", "rpe_index_sum"]
