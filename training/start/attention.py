"""Check before a run with --attention fused that its kernels can compute the layers."""

import torch

from rpe_ops.attention import trial
from rpe_ops.irpe import RPEConfig
from training.amp import DTYPES
from util.errors import UserError


def check_fused(
    encoding: RPEConfig | None, head_dim: int, device: torch.device, amp: str, dropout: bool
) -> None:
    """Raise a UserError if the fused kernels do not support a layer, or fail in their trial.

    Args:
        encoding: of the layer; None for none.
        head_dim: features of a head.
        amp: the run's --amp.
        dropout: whether the layer trains with dropout of its weights.
    """
    reason = trial.why_not_layer(encoding, head_dim, device, DTYPES[amp] or torch.float32, dropout)
    if reason is not None:
        raise UserError(f"--attention fused: {reason}")
