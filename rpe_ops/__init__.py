"""The two operators of image relative position encoding; each is the other's adjoint."""

from .reference import rpe_index_ref, rpe_index_sum_ref
from .rpe_index import check_index, rpe_index, rpe_index_sum
from .version import __version__

__all__ = [
    "__version__",
    "check_index",
    "rpe_index",
    "rpe_index_ref",
    "rpe_index_sum",
    "rpe_index_sum_ref",
]
