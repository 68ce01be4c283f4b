"""The operators of image relative position encoding (RPE): look up buckets, sum into buckets."""

import sys
from typing import TYPE_CHECKING

# `python -m rpe_ops` imports this package before its __main__, which answers --help and mistakes
# without PyTorch. Everyone else has the names below, and torch.ops.rpe_ops, from the import on.
if sys.orig_argv[1:3] != ["-m", "rpe_ops"]:
    # isort: off
    # First, because importing a submodule sets its name here: rpe_index has to be the function.
    from .rpe_index import RPEIndexFunction as RPEIndexFunction

    # isort: on
    from .cache import BucketCache
    from .functions import check_index, is_exporting, rpe_index, rpe_index_sum
    from .reference import rpe_index_ref, rpe_index_sum_ref
    from .version import __version__
    from .weighted_sum import rpe_weighted_sum

if TYPE_CHECKING:
    from .attention import rpe_attention

__all__ = [
    "BucketCache",
    "RPEIndexFunction",
    "__version__",
    "check_index",
    "is_exporting",
    "rpe_attention",
    "rpe_index",
    "rpe_index_ref",
    "rpe_index_sum",
    "rpe_index_sum_ref",
    "rpe_weighted_sum",
]


def __getattr__(name: str) -> object:
    """Import `rpe_attention` when it is asked for: it brings Triton, which takes its time."""
    if name == "rpe_attention":
        from .attention import rpe_attention

        return rpe_attention
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
