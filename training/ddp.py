"""DistributedDataParallel: gradients and batch norm statistics of a distributed run."""

import contextlib
import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.amp import Precision
from training.random_state import random_state, restore_random_state
from util.distributed import get_world_size

# Newer versions of PyTorch warn of the older name.
NAMES = inspect.signature(DistributedDataParallel).parameters
SYNC_BUFFERS = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in NAMES)


def wrap_ddp(model: nn.Module, precision: Precision, sync_buffers: bool, samples: Any) -> nn.Module:
    """Wrap `model` so that gradients become the means over all processes.

    PyTorch arranges the buckets that gradients travel in twice: first in the order of parameters,
    then, after one backward pass, in that of their gradients. How sums are rounded depends on the
    place in a bucket (with three processes and more), so a resumed run would round its first step
    in another way than the run that went on. One pass over empty images before the first step
    leaves both with the second arrangement.

    Args:
        sync_buffers: before each forward pass all processes get the main one's buffers, as trained
            batch norm needs.
        samples: a batch of empty images on the device, as the model takes them.
    """
    device = precision.device
    wrapped = DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        **dict[str, Any]({SYNC_BUFFERS: sync_buffers}),
    )
    randomness = random_state(device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    wrapped.train()
    with precision.autocast():
        outputs = wrapped(samples)
    torch.stack([output.float().sum() for output in _tensors(outputs)]).sum().backward()
    wrapped.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    restore_random_state(randomness, device)
    return wrapped


def sync_gradients(model: nn.Module, wanted: bool) -> contextlib.AbstractContextManager[None]:
    """Return the context of a forward and a backward pass; gradients are all-reduced if `wanted`.

    If not, each process accumulates its own; the next all-reduce is of the sums.
    """
    if wanted or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def broadcast_buffers(model: nn.Module) -> None:
    """Broadcast the main process's buffers to all.

    DistributedDataParallel does so before each forward pass, so that after the last one the
    statistics of batch norm are each process's own, while the checkpoint has the main one's.
    """
    if get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def _tensors(outputs: dict | list | torch.Tensor) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    parts = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for part in parts for tensor in _tensors(part)]
