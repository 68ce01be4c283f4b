"""`rpe_ops.irpe` under its published path. A copy of it works as well, beside `rpe_ops`."""

from rpe_ops.irpe import *  # noqa: F403
