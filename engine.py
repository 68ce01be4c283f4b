"""One epoch of training, and one evaluation."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from datasets.annotation_store import Annotations
from datasets.coco_eval import CocoEvaluator
from util.errors import UserError
from util.metrics import MetricLogger, progress
from util.precision import Precision


def train_one_epoch(
    model: nn.Module,
    criterion: nn.Module,
    data_loader: Iterable,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    epoch: int,
    max_norm: float = 0,
    precision: Precision | None = None,
) -> dict[str, float]:
    """Train on every batch once.

    Args:
        max_norm: largest norm of all gradients together; 0 leaves them as they are.
        precision: of the model's forward pass; float32 if None.

    Returns:
        Means over the epoch: loss, lr, class_error, each weighted loss term and, with the suffix
        _unscaled, each term as the criterion gives it.

    Raises:
        UserError: the loss is not finite; the weights are those of the step before.
    """
    precision = precision or Precision("off", device)
    model.train()
    criterion.train()
    metrics = MetricLogger()
    lr = torch.tensor(optimizer.param_groups[0]["lr"], device=device)
    batches = progress(data_loader, f"Epoch {epoch}", lambda: _summary(metrics))
    for samples, targets in batches:
        targets = [_to(target, device) for target in targets]
        with precision.autocast():
            outputs = model(samples.to(device))
        losses = criterion(outputs, targets)
        weighted = _weighted(losses, criterion.weight_dict)
        loss = sum(weighted.values())
        finite = _Later(loss.isfinite())
        optimizer.zero_grad()
        precision.backward(loss)
        if not finite.value():
            _stop_not_finite(losses, targets)
        precision.update(model, optimizer, max_norm)
        metrics.update({"lr": lr, **_terms(loss, weighted, losses)})
    return metrics.means_of_all_processes()


@torch.no_grad()
def evaluate(
    model: nn.Module,
    criterion: nn.Module,
    postprocessors: dict[str, nn.Module],
    data_loader: Iterable,
    base_ds: Annotations,
    device: torch.device,
    precision: Precision | None = None,
    scorer: str = "faster",
) -> tuple[dict, CocoEvaluator]:
    """Detect on every image once and score the detections.

    Give the model itself, not its DistributedDataParallel wrapper: processes may have
    different numbers of batches.

    Args:
        base_ds: the annotations to score against.
        scorer: one of `datasets.scorers.SCORERS`.

    Returns:
        Means as from `train_one_epoch` plus coco_eval_bbox (COCO's 12 numbers), the evaluator.
    """
    precision = precision or Precision("off", device)
    model.eval()
    criterion.eval()
    metrics = MetricLogger()
    evaluator = CocoEvaluator(base_ds, ("bbox",), scorer)
    for samples, targets in progress(data_loader, "Evaluation", lambda: _summary(metrics)):
        targets = [_to(target, device) for target in targets]
        with precision.autocast():
            outputs = model(samples.to(device))
        losses = criterion(outputs, targets)
        weighted = _weighted(losses, criterion.weight_dict)
        loss = sum(weighted.values())
        metrics.update(_terms(loss, weighted, losses))

        sizes = torch.stack([target["orig_size"] for target in targets])
        results = postprocessors["bbox"](outputs, sizes)
        ids = [target["image_id"].item() for target in targets]
        evaluator.update(dict(zip(ids, results, strict=True)))

    stats = metrics.means_of_all_processes()
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    return {**stats, "coco_eval_bbox": evaluator.stats["bbox"]}, evaluator


class _Later:
    """A truth value that a GPU computes while this process goes on; read when it is wanted."""

    def __init__(self, flag: Tensor):
        self._event = None
        if flag.is_cuda:
            self._flag = torch.empty_like(flag, device="cpu", pin_memory=True)
            self._flag.copy_(flag, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._flag = flag

    def value(self) -> bool:
        if self._event is not None:
            self._event.synchronize()  # waits for what came before the flag, not for all
        return bool(self._flag)


def _to(target: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in target.items()}


def _weighted(losses: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """The terms whose sum is minimised."""
    return {name: losses[name] * weight for name, weight in weights.items()}


def _terms(
    loss: Tensor, weighted: dict[str, Tensor], losses: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What is logged of one batch, under DETR's names."""
    unscaled = {f"{name}_unscaled": value for name, value in losses.items()}
    return {"class_error": losses["class_error"], "loss": loss, **weighted, **unscaled}


def _summary(metrics: MetricLogger) -> str:
    """The means that tell how training goes."""
    means = metrics.means()
    shown = ("loss", "loss_ce", "loss_bbox", "loss_giou", "class_error")
    return "  ".join(f"{name} {means[name]:.4g}" for name in shown if name in means)


def _stop_not_finite(losses: dict[str, Tensor], targets: list[dict[str, Tensor]]) -> None:
    broken = ", ".join(
        f"{name} {value.item()}" for name, value in losses.items() if not value.isfinite()
    )
    images = ", ".join(str(target["image_id"].item()) for target in targets)
    raise UserError(f"the loss is not finite ({broken}) on images {images}; lower --lr")
