"""Parts of a model that are computed in float32 whatever autocast says."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: str) -> AbstractContextManager:
    """Disable autocast; where it is off already, do nothing that an exported graph would hold.

    Args:
        device: a type of devices; the meta device has no autocast.
    """
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
