"""Exponential moving average of a model's weights, which is evaluated in their place."""

import copy
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

# Entries of a checkpoint: the average, a state dict like "model", and how often it was updated.
AVERAGE, UPDATES = "ema", "ema_updates"


def has_average(checkpoint: dict, entry: str = AVERAGE) -> bool:
    """Say whether a checkpoint holds averaged weights."""
    return isinstance(checkpoint.get(entry), dict)


def weights_to_use(checkpoint: dict) -> dict[str, Tensor]:
    """Return the state dict to detect with and to start from: the averaged weights, if any."""
    return checkpoint[AVERAGE if has_average(checkpoint) else "model"]


class WeightAverage:
    """Averages weights and trained batch norm's statistics.

    Not torch.optim.swa_utils.AveragedModel, which keeps its count of updates in a tensor and copies
    it to the GPU, with a wait, at each update.

    The first update takes the model's weights as they are; update n + 1 takes 1 - d of them and d
    of the average, d = min(decay, (1 + n) / (10 + n)): a short run is averaged over fewer steps.

    Args:
        model: not wrapped; the copy is on the same device.
        decay: of an old average in one update, below 1.
        entry: of a checkpoint, that the average is kept in.

    Attributes:
        module: the model with the averaged weights.
    """

    def __init__(self, model: nn.Module, decay: float, entry: str = AVERAGE):
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.entry = entry
        self.updates = 0

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the weights of `model` into the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0
        pairs = zip(_tensors(self.module), _tensors(model), strict=True)
        averages, weights = [], []
        for averaged, current in pairs:
            if decay and averaged.is_floating_point():
                averages.append(averaged)
                weights.append(current)
            else:  # also batch norm's counter
                averaged.copy_(current)
        if averages:
            torch._foreach_lerp_(averages, weights, 1 - decay)
        self.updates += 1

    def to_checkpoint(self) -> dict:
        """Return the entries of a checkpoint."""
        return {self.entry: self.module.state_dict(), UPDATES: self.updates}

    def load_checkpoint(self, checkpoint: dict) -> None:
        """Load a checkpoint's average; one without leaves this as it is.

        Raises:
            ValueError, RuntimeError, KeyError, TypeError: it is damaged, or of another model.
        """
        if not has_average(checkpoint, self.entry):
            return
        self.module.load_state_dict(checkpoint[self.entry])
        if not all(value.isfinite().all() for value in self.module.state_dict().values()):
            raise ValueError("its averaged weights are not finite")
        self.updates = int(checkpoint[UPDATES])


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())
