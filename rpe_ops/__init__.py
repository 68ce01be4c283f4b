"""The operators of image relative position encoding (RPE): look up buckets, sum into buckets."""

# isort: off
# First, because importing a submodule sets its name here: rpe_index has to be the function.
from .rpe_index import RPEIndexFunction as RPEIndexFunction

# isort: on
from .cache import BucketCache
from .functions import check_index, is_exporting, rpe_index, rpe_index_sum
from .reference import rpe_index_ref, rpe_index_sum_ref
from .version import __version__
from .weighted_sum import rpe_weighted_sum

__all__ = [
    "BucketCache",
    "RPEIndexFunction",
    "__version__",
    "check_index",
    "is_exporting",
    "rpe_index",
    "rpe_index_ref",
    "rpe_index_sum",
    "rpe_index_sum_ref",
    "rpe_weighted_sum",
]
