"""One epoch of training, and one evaluation."""

import math
from collections.abc import Iterable
from functools import partial
from typing import NoReturn, Protocol

import torch
from torch import Tensor, nn

from datasets.annotations.store import Annotations
from datasets.coco_eval import STATS, CocoEvaluator
from datasets.panoptic_eval import PanopticEvaluator
from models.postprocess import postprocess
from training.amp import Precision
from training.ddp import exchange_of_gradients
from training.ema import WeightAverage
from training.metrics import MetricLogger, RunProgress, progress
from util import distributed as dist
from util.errors import CommonError

# Of a batch, in batches of training, which have a backward pass: roughly, to tell what is left.
COST_OF_EVALUATION = 1 / 3


class Boundary(Protocol):
    """What happens where a step of training, or a batch of evaluation, ends."""

    def wanted(self) -> int:
        """What this process wants at the end of the step; the largest number wins.

        Asked before each batch of it; the last answer counts.
        """

    def reached(self, agreed: int, metrics: MetricLogger, batches: int) -> None:
        """A step of training, of so many batches, is done; all processes know `agreed`."""

    def between_batches(self, agreed: int) -> None:
        """The same of a batch of evaluation."""


def train_one_epoch(
    model: nn.Module,
    criterion: nn.Module,
    data_loader: Iterable,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    epoch: int,
    max_norm: float = 0,
    precision: Precision | None = None,
    steps_before: int = 0,
    metrics: MetricLogger | None = None,
    boundary: Boundary | None = None,
    accumulate: int = 1,
    average: WeightAverage | None = None,
    run: RunProgress | None = None,
) -> dict[str, float]:
    """Train on every batch once.

    Args:
        max_norm: largest norm of all gradients together; 0 leaves them as they are.
        precision: of the model's forward pass; float32 if None.
        steps_before: batches of this epoch that are not in data_loader, because an interrupted
            run went through them; only to show progress.
        metrics: sums over those batches; None if there are none.
        boundary: may save, and may stop by an exception, after each step.
        accumulate: batches whose gradients are averaged for a step; the last step has the rest.
        average: is updated after each step.
        run: that the epoch is part of; only to show progress.

    Returns:
        lr, and means over the epoch: loss, class_error, each weighted loss term and, with the
        suffix _unscaled, each term as the criterion gives it.

    Raises:
        CommonError: the loss or the gradient is not finite on some process; the weights are those
            of the step before, on all of them.
    """
    precision = precision or Precision("off", device)
    model.train()
    criterion.train()
    metrics = metrics or MetricLogger()
    batches = progress(data_loader, f"Epoch {epoch}", lambda: _summary(metrics), steps_before, run)
    group = []  # batches since the last step, as `_stop_not_finite` takes them
    for number, (samples, targets) in enumerate(batches):
        place = number % accumulate
        size = min(accumulate, len(data_loader) - number + place)
        last = place + 1 == size
        targets = [_to(target, device) for target in targets]
        with exchange_of_gradients(model, last):
            with precision.autocast():
                outputs = model(samples.to(device), **_match(criterion, targets))
            loss, terms, losses = _losses(criterion, outputs, targets)
            agreed = _Agreed(~loss.isfinite(), boundary.wanted() if boundary else 0)
            if place == 0:
                optimizer.zero_grad()
                group.clear()
            precision.backward(loss / size)
        group.append(([target["image_id"] for target in targets], losses))
        not_finite, wanted = agreed.values()
        if not_finite:
            _stop_not_finite("loss", group[-1:])
        metrics.update(terms)
        if not last:
            continue  # who wants to save or stop still wants it after the step
        if not precision.update(model, optimizer, max_norm):
            _stop_not_finite("gradient", group)
        if average is not None:
            average.update_parameters(model)
        if boundary is not None:
            boundary.reached(wanted, metrics, size)
    return {"lr": optimizer.param_groups[0]["lr"], **metrics.means_of_all_processes()}


@torch.no_grad()
def evaluate(
    model: nn.Module,
    criterion: nn.Module,
    postprocessors: dict[str, nn.Module],
    data_loader: Iterable,
    base_ds: Annotations | None,
    device: torch.device,
    precision: Precision | None = None,
    scorer: str = "faster",
    boundary: Boundary | None = None,
    panoptic: PanopticEvaluator | None = None,
    run: RunProgress | None = None,
) -> tuple[dict, CocoEvaluator | None]:
    """Detect on every image once and score what was found.

    Give the model itself, not its DistributedDataParallel wrapper: processes may have
    different numbers of batches.

    Args:
        postprocessors: as from `build_model`; they decide what is scored.
        base_ds: the annotations to score boxes and masks against; None for no such scores.
        scorer: one of `datasets.scoring.coco.SCORERS`.
        boundary: may stop by an exception after each batch.
        panoptic: scores the maps of "panoptic".
        run: that the evaluation is part of; only to show progress.

    Returns:
        Means as from `train_one_epoch`, without lr; coco_eval_bbox and coco_eval_masks (COCO's 12
        numbers), the same with _per_class, and PQ_all, PQ_th and PQ_st; the evaluator of boxes and
        masks.

    Raises:
        CommonError: the loss is not finite.
    """
    precision = precision or Precision("off", device)
    model.eval()
    criterion.eval()
    metrics = MetricLogger()
    iou_types = tuple(name for name in STATS if name in postprocessors)
    evaluator = CocoEvaluator(base_ds, iou_types, scorer) if base_ds is not None else None
    most_batches = max(dist.all_gather(len(data_loader)))
    batches = progress(
        data_loader, "Evaluation", lambda: _summary(metrics), run=run, cost=COST_OF_EVALUATION
    )
    for samples, targets in batches:
        targets = [_to(target, device) for target in targets]
        with precision.autocast():
            outputs = model(samples.to(device))
        metrics.update(_losses(criterion, outputs, targets)[1])

        sizes = torch.stack([target["size"] for target in targets])
        orig_sizes = torch.stack([target["orig_size"] for target in targets])
        ids = [target["image_id"].item() for target in targets]
        if evaluator is not None:
            results = postprocess(postprocessors, outputs, orig_sizes, sizes)
            evaluator.update(dict(zip(ids, results, strict=True)))
        if panoptic is not None:
            maps = postprocessors["panoptic"](outputs, sizes, orig_sizes)
            panoptic.update(dict(zip(ids, maps, strict=True)))
        _end_of_batch(boundary, device)
    for _ in range(most_batches - len(data_loader)):
        _end_of_batch(boundary, device)

    stats = metrics.means_of_all_processes()
    if not math.isfinite(stats.get("loss", 0)):
        raise CommonError(
            "the loss of the evaluation is not finite: training has diverged, or its weights are "
            "damaged; go on from an earlier checkpoint with a lower --lr"
        )
    if evaluator is not None:
        evaluator.synchronize_between_processes()
        evaluator.accumulate()
        evaluator.summarize()
        stats |= evaluator.logged()
    if panoptic is not None:
        panoptic.synchronize_between_processes()
        panoptic.summarize()
        stats |= panoptic.stats
    return stats, evaluator


class _Agreed:
    """The largest values of all processes; a GPU finds them while this process goes on.

    Args:
        flag: scalar bool.
        number: of this process, a whole number.
    """

    def __init__(self, flag: Tensor, number: int):
        pair = torch.stack([flag.float(), torch.full_like(flag, number, dtype=torch.float)])
        dist.all_reduce_max(pair)
        self._event = None
        if pair.is_cuda:
            self._pair = torch.empty_like(pair, device="cpu", pin_memory=True)
            self._pair.copy_(pair, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._pair = pair

    def values(self) -> tuple[bool, int]:
        if self._event is not None:
            self._event.synchronize()  # waits for what came before, not for all
        flag, number = self._pair.tolist()
        return bool(flag), int(number)


def _end_of_batch(boundary: Boundary | None, device: torch.device) -> None:
    if boundary is not None:
        agreed = _Agreed(torch.zeros((), dtype=torch.bool, device=device), boundary.wanted())
        boundary.between_batches(agreed.values()[1])


def _to(target: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in target.items()}


def _match(criterion: nn.Module, targets: list[dict[str, Tensor]]) -> dict:
    """A model with a mask head is told the targets, so that it draws no mask in vain."""
    if "loss_mask" not in criterion.weight_dict:
        return {}
    return {"match": partial(criterion.match, targets=targets)}


def _losses(
    criterion: nn.Module, outputs: dict, targets: list[dict[str, Tensor]]
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """The loss of a batch, what is logged of it under DETR's names, and the criterion's terms."""
    losses = criterion(outputs, targets)
    weights = criterion.weight_dict
    weighted = {name: losses[name] * weight for name, weight in weights.items() if name in losses}
    loss = sum(weighted.values())
    unscaled = {f"{name}_unscaled": value for name, value in losses.items()}
    logged = {"class_error": losses["class_error"], "loss": loss, **weighted, **unscaled}
    return loss, logged, {name: value.detach() for name, value in losses.items()}


def _summary(metrics: MetricLogger) -> str:
    """The means that tell how training goes."""
    means = metrics.means()
    shown = (
        "loss", "loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice", "class_error",
    )  # fmt: skip
    return "  ".join(f"{name} {means[name]:.4g}" for name in shown if name in means)


def _stop_not_finite(what: str, batches: list[tuple[list[Tensor], dict[str, Tensor]]]) -> NoReturn:
    """Raise the same error on all processes, naming what each of them worked on.

    Args:
        batches: image ids and terms of the loss.
    """
    mine = (
        [image.item() for images, _ in batches for image in images],
        {
            name: sum(losses[name].item() for _, losses in batches) / len(batches)
            for name in batches[-1][1]
        },
    )
    told = []
    for rank, (images, terms) in enumerate(dist.all_gather(mine)):
        broken = {name: value for name, value in terms.items() if not math.isfinite(value)}
        if what == "loss" and not broken:
            continue
        shown = ", ".join(f"{name} {value:.4g}" for name, value in (broken or terms).items())
        place = f" of process {rank}" if dist.get_world_size() > 1 else ""
        told.append(f"images {', '.join(map(str, images))}{place} ({shown})")
    raise CommonError(
        f"the {what} is not finite on {'; '.join(told)}; the weights are those of the step before. "
        "Look at these images, or lower --lr"
    )
