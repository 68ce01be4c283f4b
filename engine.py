"""One epoch of training, and one evaluation."""

import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from datasets.annotations.store import Annotations
from datasets.coco_eval import STATS, CocoEvaluator
from datasets.panoptic_eval import PanopticEvaluator
from datasets.score_tables import score_lines
from models.postprocess import postprocess
from training.amp import Precision
from training.consensus import StepHook
from training.ema import WeightAverage
from training.metrics import EpochMeans
from training.output_dir import MAPS
from training.progress.bar import COST_OF_EVALUATION, progress, shown_number
from training.progress.run import RunProgress, epoch_of
from training.steps import agreed_batches, train_steps
from util.distributed import print_main
from util.errors import CommonError

# Losses that are shown while they fall, by short names that leave room for a bar.
SHOWN = {
    "loss": "loss", "loss_ce": "ce", "loss_bbox": "box", "loss_giou": "giou", "loss_mask": "mask",
    "loss_dice": "dice",
}  # fmt: skip


def train_one_epoch(
    model: nn.Module,
    criterion: nn.Module,
    data_loader: Iterable,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    epoch: int,
    max_norm: float = 0,
    *,
    precision: Precision | None = None,
    accumulate: int = 1,
    average: WeightAverage | None = None,
    hook: StepHook | None = None,
    steps_before: int = 0,
    metrics: EpochMeans | None = None,
    run: RunProgress | None = None,
) -> dict[str, float]:
    """Train on every batch once.

    Args:
        max_norm: largest norm of all gradients together; 0 leaves them as they are.
        precision: of the model's forward pass; float32 if None.
        accumulate: batches whose gradients are averaged for a step; the last step has the rest.
        average: is updated after each step.
        hook: may save after each step, and may stop the run by an exception.
        steps_before: batches of this epoch that are not in data_loader because an interrupted run
            trained on them; only to show progress.
        metrics: sums over those batches; None without any.
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
    metrics = metrics or EpochMeans()
    epochs = None if run is None else run.epochs
    label = epoch_of(epoch, epochs)
    rate = optimizer.param_groups[0]["lr"]
    batches = progress(data_loader, label, lambda: _summary(metrics, rate), steps_before, run)

    def compute(batch: tuple) -> tuple[Tensor, dict, dict, list[Tensor]]:
        samples, targets = batch
        targets = [_to(target, device) for target in targets]
        with precision.autocast():
            outputs = model(samples.to(device), **_match(criterion, targets))
        return *_losses(criterion, outputs, targets), [target["image_id"] for target in targets]

    train_steps(
        model, batches, len(data_loader), compute, optimizer, precision, max_norm, accumulate,
        average, hook, metrics,
    )  # fmt: skip
    return {"lr": optimizer.param_groups[0]["lr"], **metrics.means_of_all_processes()}


@torch.no_grad()
def evaluate(
    model: nn.Module,
    criterion: nn.Module,
    postprocessors: dict[str, nn.Module],
    data_loader: Iterable,
    base_ds: Annotations | None,
    device: torch.device,
    output_dir: str | Path = "",
    *,
    precision: Precision | None = None,
    scorer: str = "faster",
    hook: StepHook | None = None,
    run: RunProgress | None = None,
    epoch: int | None = None,
    table: bool = True,
) -> tuple[dict, CocoEvaluator | None]:
    """Detect on every image once and score what was found.

    Give the model itself, not its DistributedDataParallel wrapper: processes may have different
    numbers of batches, and the wrapper's forward pass waits for the others.

    Args:
        postprocessors: as from `build_model`; they decide what is scored.
        base_ds: the annotations to score boxes and masks against; None for no such scores.
        output_dir: folder that panoptic maps are written to, in panoptic_eval/; "" for nowhere.
        precision: of the model's forward pass; float32 if None.
        scorer: one of `datasets.scoring.SCORERS`.
        hook: may stop the run by an exception after each batch.
        run: that the evaluation is part of; only to show progress.
        epoch: of training that is evaluated, counted from 0; only to show it.
        table: print COCO's tables, and that of panoptic quality; else a line of each.

    Returns:
        Means as from `train_one_epoch`, without lr; coco_eval_bbox and coco_eval_masks (COCO's 12
        numbers), the same with _per_class and _AP_uncut, and PQ_all, PQ_th and PQ_st; the evaluator
        of boxes and masks.

    Raises:
        CommonError: the loss is not finite.
    """
    precision = precision or Precision("off", device)
    model.eval()
    criterion.eval()
    metrics = EpochMeans()
    iou_types = tuple(name for name in STATS if name in postprocessors)
    evaluator = CocoEvaluator(base_ds, iou_types, scorer) if base_ds is not None else None
    panoptic = None
    if "panoptic" in postprocessors:
        panoptic = PanopticEvaluator(data_loader.dataset, keep_maps=bool(str(output_dir)))
    epochs = None if run is None else run.epochs
    label = epoch_of(epoch, epochs, "eval")
    batches = progress(
        data_loader, label, lambda: _summary(metrics), run=run, cost=COST_OF_EVALUATION,
        last_line=epoch is None,  # log.txt has the losses of an epoch
    )  # fmt: skip
    for samples, targets in agreed_batches(batches, len(data_loader), device, hook):
        ids = [target["image_id"].item() for target in targets]
        targets = [_to(target, device) for target in targets]
        with precision.autocast():
            outputs = model(samples.to(device))
        metrics.update(_losses(criterion, outputs, targets)[1])

        sizes = torch.stack([target["size"] for target in targets])
        orig_sizes = torch.stack([target["orig_size"] for target in targets])
        if evaluator is not None:
            results = postprocess(postprocessors, outputs, orig_sizes, sizes)
            evaluator.update(dict(zip(ids, results, strict=True)))
        if panoptic is not None:
            maps = postprocessors["panoptic"](outputs, sizes, orig_sizes)
            panoptic.update(dict(zip(ids, maps, strict=True)))

    stats = metrics.means_of_all_processes()
    if not math.isfinite(stats.get("loss", 0)):
        raise CommonError(
            "the loss of the evaluation is not finite: training has diverged, or its weights are "
            "damaged; resume an earlier checkpoint with a lower --lr"
        )
    if evaluator is not None:
        evaluator.synchronize_between_processes()
        evaluator.accumulate()
        evaluator.summarize(table)
        stats |= evaluator.logged()
    if panoptic is not None:
        panoptic.synchronize_between_processes()
        panoptic.summarize(table)
        stats |= panoptic.stats
        if str(output_dir):
            panoptic.save(Path(output_dir) / MAPS)
    if not table:
        for line in score_lines(stats):
            print_main(f"{epoch_of(epoch, epochs)}  {line}")
    return stats, evaluator


def _to(target: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in target.items()}


def _match(criterion: nn.Module, targets: list[dict[str, Tensor]]) -> dict:
    """Return what a model with a mask head needs to draw masks of matched queries alone."""
    if "loss_mask" not in criterion.weight_dict:
        return {}
    return {"match": partial(criterion.match, targets=targets)}


def _losses(
    criterion: nn.Module, outputs: dict, targets: list[dict[str, Tensor]]
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Return the loss of a batch, what is logged under DETR's names, and the criterion's terms."""
    losses = criterion(outputs, targets)
    weights = {name: w for name, w in criterion.weight_dict.items() if name in losses}
    # One operator for all of them, and another one to let go of the graph.
    scaled = torch._foreach_mul([losses[name] for name in weights], list(weights.values()))
    weighted = dict(zip(weights, scaled, strict=True))
    loss = sum(scaled)
    with torch.no_grad():
        terms = dict(zip(losses, torch.stack(list(losses.values())).unbind(), strict=True))
    unscaled = {f"{name}_unscaled": value for name, value in terms.items()}
    logged = {"class_error": terms["class_error"], "loss": loss, **weighted, **unscaled}
    return loss, logged, terms


def _summary(metrics: EpochMeans, rate: float | None = None) -> list[str]:
    """Return words that show how training goes: means, and between them the learning rate."""
    means = metrics.means()
    words = [f"{name} {shown_number(means[key])}" for key, name in SHOWN.items() if key in means]
    if rate is not None:
        words.append(f"lr {shown_number(rate)}")
    if "class_error" in means:
        words.append(f"error {means['class_error']:.0f}%")
    return words
