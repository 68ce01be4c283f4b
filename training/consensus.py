"""What all processes decide together at a step: is it finite, does one of them have to stop."""

import math
from typing import NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor

from training.metrics import EpochMeans
from util import distributed as dist
from util.errors import CommonError


class Request(NamedTuple):
    """What a process wants when the step is done.

    Attributes:
        save: write a checkpoint.
        signum: the signal that stops the run; 0 to go on.
    """

    save: bool = False
    signum: int = 0


class StepHook(Protocol):
    """What happens at the end of a step of training, or of a batch of evaluation."""

    def request(self) -> Request:
        """Return what this process wants. Asked before each batch; the last answer counts."""

    def on_step_end(self, agreed: Request, metrics: EpochMeans, batches: int) -> None:
        """Act on what the processes want after a step of training, which had so many batches."""

    def on_batch_end(self, agreed: Request) -> None:
        """Act on what the processes want after a batch of evaluation."""


class Agreement:
    """What any process has or wants, known to all; a GPU finds out while this process goes on.

    Args:
        not_finite: bool scalar, on the device of the all-reduce.
        request: of this process.
    """

    def __init__(self, not_finite: Tensor, request: Request):
        values = torch.zeros(3, device=not_finite.device)
        values[0] = not_finite
        if request.save or request.signum:
            values[1:] = torch.tensor([request.save, request.signum])
        dist.all_reduce_max(values)
        self._copied = None
        if values.is_cuda:
            self._values = torch.empty_like(values, device="cpu", pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._values = values

    def result(self) -> tuple[bool, Request]:
        """Return whether any process is not finite, and what any of them wants."""
        if self._copied is not None:
            self._copied.synchronize()  # waits for what was queued before, not for all
        not_finite, save, signum = self._values.tolist()
        return bool(not_finite), Request(bool(save), int(signum))


def raise_not_finite(what: str, batches: list[tuple[list[Tensor], dict[str, Tensor]]]) -> NoReturn:
    """Raise the same error on all processes, naming the images that each of them worked on.

    Args:
        what: "loss" or "gradient".
        batches: image ids, int64 scalars, and the terms of the loss, scalars, of each batch.

    Raises:
        CommonError: always.
    """
    mine = (
        [image.item() for images, _ in batches for image in images],
        {
            name: sum(losses[name].item() for _, losses in batches) / len(batches)
            for name in batches[-1][1]
        },
    )
    places = []
    for rank, (images, terms) in enumerate(dist.all_gather(mine)):
        broken = {name: value for name, value in terms.items() if not math.isfinite(value)}
        if what == "loss" and not broken:
            continue
        shown = ", ".join(f"{name} {value:.4g}" for name, value in (broken or terms).items())
        process = f" of process {rank}" if dist.get_world_size() > 1 else ""
        places.append(f"images {', '.join(map(str, images))}{process} ({shown})")
    raise CommonError(
        f"the {what} is not finite on {'; '.join(places)}; the weights are those of the step "
        "before. Look at these images, or lower --lr"
    )
