"""The order in which processes add up their gradients: the same in every step of every run."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from util.precision import Precision

IMAGE_SIZE = 64


def settle_buckets(
    model: DistributedDataParallel, precision: Precision, device: torch.device
) -> None:
    """Let a wrapped model find its order of gradients before the first step.

    It adds up gradients in buckets, in an order that it changes after the first backward pass to
    that in which they become ready. The sums of more than two processes depend, in their last
    bits, on the place in a bucket: a resumed run would differ from one that went on. So the first
    backward pass is one of empty images, which changes nothing else.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        images = [torch.zeros(3, IMAGE_SIZE, IMAGE_SIZE, device=device) for _ in range(2)]
        with precision.autocast():
            outputs = model(images)
        sum(tensor.sum() for tensor in _tensors(outputs)).backward()
    for parameter in model.parameters():
        parameter.grad = None
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """All tensors of nested dicts and lists."""
    if isinstance(outputs, Tensor):
        yield outputs
    else:
        for value in outputs.values() if isinstance(outputs, dict) else outputs:
            yield from _tensors(value)
