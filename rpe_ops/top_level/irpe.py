"""`import irpe` where the package is installed: the encoding, `rpe_ops.irpe`."""

from rpe_ops.irpe import *  # noqa: F403
