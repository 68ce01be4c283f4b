"""Exponential moving average of a model's weights, which is evaluated in their place."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

# Entries of a checkpoint: the average, a state dict like "model", and how often it was updated.
AVERAGE, UPDATES = "ema", "ema_updates"


def has_average(checkpoint: dict) -> bool:
    """Say whether a checkpoint holds averaged weights."""
    return isinstance(checkpoint.get(AVERAGE), dict)


def weights_to_use(checkpoint: dict) -> dict[str, Tensor]:
    """Return the state dict to detect with and to start from: the averaged weights, if any."""
    return checkpoint[AVERAGE if has_average(checkpoint) else "model"]


class WeightAverage(AveragedModel):
    """Averages weights and trained batch norm's statistics.

    The first update takes the model's weights as they are; update n + 1 takes 1 - d of them and d
    of the average, d = min(decay, (1 + n) / (10 + n)): a short run is averaged over fewer steps.

    Args:
        model: not wrapped; the copy is on the same device.
        decay: of an old average in one update, below 1.

    Attributes:
        module: the model with the averaged weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, multi_avg_fn=self._average, use_buffers=True)
        self.module.requires_grad_(False)
        self.decay = decay

    def _average(self, averaged: list[Tensor], current: list[Tensor], _: Tensor) -> None:
        """Update `averaged`, tensors of one dtype and device, in place."""
        if not averaged[0].is_floating_point():  # counters
            torch._foreach_copy_(averaged, current)
            return
        updates = self.n_averaged.item()  # stays on the CPU: nobody waits for a GPU
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def to_checkpoint(self) -> dict:
        """Return the entries of a checkpoint."""
        return {AVERAGE: self.module.state_dict(), UPDATES: self.n_averaged.item()}

    def load_checkpoint(self, checkpoint: dict) -> None:
        """Load a checkpoint's average; one without leaves this as it is.

        Raises:
            ValueError, RuntimeError, KeyError, TypeError: it is damaged, or of another model.
        """
        if not has_average(checkpoint):
            return
        self.module.load_state_dict(checkpoint[AVERAGE])
        if not all(value.isfinite().all() for value in self.module.state_dict().values()):
            raise ValueError("its averaged weights are not finite")
        self.n_averaged.fill_(checkpoint[UPDATES])
