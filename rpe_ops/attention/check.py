"""Try the fused kernels on a device: `python -m rpe_ops --check`."""

from collections.abc import Iterator

import torch

from rpe_ops.irpe import RPEConfig, get_rpe_config

from . import fused, fused_check, trial

# The detector's attention, and that of a vision transformer with a class token; features of a head.
CONFIGS = {
    "rpe-2.0-product-ctx-1-k": (get_rpe_config(2.0, rpe_on="k"), 32),
    "rpe-1.9-product-ctx-1-qkv after a class token": (
        get_rpe_config(1.9, skip=1, rpe_on="qkv"), 64
    ),
}  # fmt: skip


def lines_of(device: torch.device) -> Iterator[tuple[str, bool]]:
    """Yield what each trial on a device found, and whether it is right.

    For each configuration and dtype, without and with dropout: the largest difference from the
    formula, as a share of the tensor's largest value.
    """
    where = f"attention on {trial.describe(device)}"
    reason = fused.why_not_device(device)
    if reason is None and device.type not in trial.DEVICES:
        reason = "it is interpreted there, which takes minutes"
    if reason is not None:
        yield f"{where}: not fused: {reason}", True
        return
    for name, (config, head_dim) in CONFIGS.items():
        for kind in kinds_of(config, head_dim, device):
            outcome = fused_check.run(kind)
            said = f"ok, difference {outcome.difference:.1e}"
            if outcome.problem is not None:
                said = f"FAILED, {outcome.problem}"
            yield f"{where}: {name}, {kind}: {said}, {outcome.seconds:.1f} s", not outcome.problem


def kinds_of(config: RPEConfig, head_dim: int, device: torch.device) -> Iterator[fused_check.Kind]:
    """Yield the kinds of calls of a layer in all dtypes."""
    extra = any(each is not None and each.skip > 0 for each in (config.rpe_k, config.rpe_q))
    for dtype in fused.DTYPES:
        for kind in trial.kinds(config, head_dim, device, dtype):
            yield kind._replace(extra=extra)
