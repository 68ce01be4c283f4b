"""Automatic mixed precision: what runs in 16 bits, and the scaling that float16 needs."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def set_tf32(name: str) -> None:
    """Choose where CUDA kernels round float32 to TF32; `name` is a value of --tf32."""
    torch.backends.cudnn.allow_tf32 = name != "off"
    torch.set_float32_matmul_precision("high" if name == "on" else "highest")


class Precision:
    """How a model is run and trained.

    Args:
        name: "off" for float32, "bf16" or "fp16". Weights stay float32 in any case.
        device: where the model is.
    """

    def __init__(self, name: str, device: torch.device):
        self.dtype = DTYPES[name]
        self.device = device
        # Small gradients would vanish in float16: the loss is scaled up, the gradients down.
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> torch.autocast:
        """Return the context of the model's forward pass; losses are computed outside of it."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the loss, scaled with "fp16" until `update`."""
        self.scaler.scale(loss).backward()

    def update(self, model: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float) -> bool:
        """Clip the gradients to a norm of `max_norm` (0: none), and step.

        With "fp16" the step is left out when the scaled gradients overflow; the scale then falls.

        Returns:
            False if a gradient is not finite; the weights are unchanged then. Gradients are the
            means over all processes, so that each of them returns the same.
        """
        self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        # foreach is what both devices take by themselves after a look at the type of each gradient.
        norm = get_total_norm(gradients, foreach=True)
        if not math.isfinite(norm) and not self._scale_can_fall():
            return False
        if max_norm > 0:
            clip_grads_with_norm_(model.parameters(), max_norm, norm, foreach=True)
        self.scaler.step(optimizer)
        self.scaler.update()
        return True

    def _scale_can_fall(self) -> bool:
        """Say whether a lower scale might have avoided the overflow."""
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1
