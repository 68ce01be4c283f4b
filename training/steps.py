"""The steps of an epoch and the batches of an evaluation, whatever is learned."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from training.amp import Precision
from training.consensus import Agreement, Request, StepHook, raise_not_finite
from training.ddp import sync_gradients
from training.ema import WeightAverage
from training.metrics import EpochMeans
from util import distributed as dist

# Computes a batch: the loss to minimise, numbers for the log, terms of the loss, all scalars, and
# the batch's image ids.
Compute = Callable[[Any], tuple[Tensor, dict[str, Tensor], dict[str, Tensor], list[Tensor]]]


def train_steps(
    model: nn.Module,
    batches: Iterable[Any],
    count: int,
    compute: Compute,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    max_norm: float,
    accumulate: int,
    average: WeightAverage | None,
    hook: StepHook | None,
    metrics: EpochMeans,
) -> None:
    """Train on every batch once.

    Args:
        count: of the batches.
        max_norm: largest norm of all gradients together; 0 leaves them as they are.
        accumulate: batches whose gradients are averaged for a step; the last step has the rest.
        average: is updated after each step.
        hook: may save after each step, and may stop the run by an exception.
        metrics: the numbers for the log are added to these.

    Raises:
        CommonError: the loss or the gradient is not finite on some process; the weights are those
            of the step before, on all of them.
    """
    group: list = []  # batches since the last step: their image ids and terms of the loss
    for number, batch in enumerate(batches):
        place = number % accumulate
        size = min(accumulate, count - number + place)
        last = place + 1 == size
        with sync_gradients(model, last):
            loss, logged, terms, images = compute(batch)
            # Begun before the backward pass, so that its end need not wait for other processes.
            agreement = Agreement(~loss.isfinite(), hook.request() if hook else Request())
            if place == 0:
                optimizer.zero_grad()
                group.clear()
            precision.backward(loss / size)
        group.append((images, terms))
        not_finite, request = agreement.result()
        if not_finite:
            raise_not_finite("loss", group[-1:])
        metrics.update(logged)
        if not last:
            continue  # a process that wants to save or stop still wants it after the step
        if not precision.update(model, optimizer, max_norm):
            raise_not_finite("gradient", group)
        if average is not None:
            average.update_parameters(model)
        if hook is not None:
            hook.on_step_end(request, metrics, size)


def agreed_batches(
    batches: Iterable[Any], count: int, device: torch.device, hook: StepHook | None
) -> Iterator[Any]:
    """Yield the batches of an evaluation; after each, the processes agree whether to stop.

    Args:
        count: of the batches; processes may have different numbers of them.
        device: of the processes' exchange.
        hook: may stop the run by an exception after each batch.
    """
    most_batches = max(dist.all_gather(count))
    agreement = None
    for batch in batches:
        yield batch
        agreement = _end_batch(hook, device, agreement)
    # A process with fewer batches takes part in the agreements of the others.
    for _ in range(most_batches - count):
        agreement = _end_batch(hook, device, agreement)
    if hook is not None and agreement is not None:
        hook.on_batch_end(agreement.result()[1])


def _end_batch(
    hook: StepHook | None, device: torch.device, before: Agreement | None
) -> Agreement | None:
    """Begin the processes' agreement after a batch, and act on that of the batch before.

    Read at once, each batch would take every process as long as the slowest one.
    """
    if hook is None:
        return None
    agreement = Agreement(torch.zeros((), dtype=torch.bool, device=device), hook.request())
    if before is not None:
        hook.on_batch_end(before.result()[1])
    return agreement
