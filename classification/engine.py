"""One epoch of training a classifier, and one evaluation."""

import argparse
import math
from collections.abc import Callable

import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn
from torch.nn import functional as F

from training.amp import Precision
from training.consensus import StepHook
from training.ema import WeightAverage
from training.metrics import EpochMeans
from training.progress.bar import COST_OF_EVALUATION, Batches, progress, shown_number
from training.progress.run import RunProgress, epoch_of
from training.steps import agreed_batches, train_steps
from util import distributed as dist
from util.errors import CommonError

from .arguments import is_mixed

# Mixes images (B, 3, height, width) and labels (B,) to images and targets (B, classes).
Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Criterion(nn.Module):
    """The loss of a batch: of its labels, and of a teacher's opinion where there is one.

    Args:
        base: loss of logits (B, classes) and targets.
        teacher: a model in evaluation mode; None for none.
        kind: "soft" to learn the teacher's probabilities, "hard" its decisions.
        alpha: weight of the teacher, from 0 to 1.
        tau: temperature of "soft".
    """

    def __init__(
        self,
        base: nn.Module,
        teacher: nn.Module | None = None,
        kind: str = "none",
        alpha: float = 0.5,
        tau: float = 1.0,
    ):
        super().__init__()
        self.base = base
        # Not a submodule: train() would switch its batch norm and dropout on.
        self._teacher = [teacher]
        self.kind = kind
        self.alpha = alpha
        self.tau = tau

    def forward(self, images: Tensor, outputs: Tensor | tuple, targets: Tensor) -> Tensor:
        """Compute the loss, a scalar.

        Args:
            outputs: logits (B, classes), or those of the class and of the distillation token.
            targets: labels (B,), or shares (B, classes).
        """
        logits, distilled = outputs if isinstance(outputs, tuple) else (outputs, None)
        loss = self.base(logits, targets)
        if distilled is None:
            return loss
        if self.kind == "none":
            # Its head takes part, or processes would wait for its gradient.
            return loss + 0 * distilled.sum()
        with torch.no_grad():
            (teacher,) = self._teacher
            assert teacher is not None, f"{self.kind} needs a teacher"
            wanted = teacher(images)
        if self.kind == "hard":
            taught = F.cross_entropy(distilled, wanted.argmax(1))
        else:
            taught = self.tau**2 * F.kl_div(
                F.log_softmax(distilled / self.tau, dim=1),
                F.log_softmax(wanted / self.tau, dim=1),
                reduction="sum",
                log_target=True,
            )
            taught = taught / distilled.numel()  # as published, over classes, too
        return loss * (1 - self.alpha) + taught * self.alpha


def build_mixup(args: argparse.Namespace) -> Mixup | None:
    """Build what mixes images of a batch; None for none."""
    if not is_mixed(args):
        return None
    return Mixup(
        args.mixup, args.cutmix, args.cutmix_minmax, args.mixup_prob, args.mixup_switch_prob,
        args.mixup_mode, label_smoothing=args.smoothing, num_classes=args.num_classes,
    )  # fmt: skip


def build_criterion(args: argparse.Namespace, teacher: nn.Module | None = None) -> Criterion:
    """Build the loss that fits the options."""
    if is_mixed(args):
        base: nn.Module = SoftTargetCrossEntropy()  # mixed targets are smoothed already
    elif args.smoothing:
        base = LabelSmoothingCrossEntropy(args.smoothing)
    else:
        base = nn.CrossEntropyLoss()
    return Criterion(
        base, teacher, args.distillation_type, args.distillation_alpha, args.distillation_tau
    )


def train_one_epoch(
    model: nn.Module,
    criterion: Criterion,
    data_loader: Batches,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    epoch: int,
    max_norm: float = 0,
    *,
    mix: Mix | None = None,
    dropout: bool = True,
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
        mix: of images and labels; None for none.
        dropout: train the model in training mode; False as the published fine-tuning does.
        max_norm, precision, accumulate, average, hook: see `training.steps.train_steps`.
        steps_before: batches of this epoch that are not in data_loader because an interrupted run
            trained on them; only to show progress.
        metrics: sums over those batches; None without any.
        run: that the epoch is part of; only to show progress.

    Returns:
        lr, and loss, its mean over the batches of all processes.

    Raises:
        CommonError: the loss or the gradient is not finite on some process.
    """
    precision = precision or Precision("off", device)
    model.train(dropout)
    metrics = metrics or EpochMeans()
    epochs = None if run is None else run.epochs
    label = epoch_of(epoch, epochs)
    rate = optimizer.param_groups[0]["lr"]
    batches = progress(data_loader, label, lambda: _summary(metrics, rate), steps_before, run)

    def compute(batch: tuple) -> tuple[Tensor, dict, dict, list[Tensor]]:
        images, labels, numbers = batch
        images = images.to(device, non_blocking=True)
        targets = labels.to(device, non_blocking=True)
        if mix is not None:
            images, targets = mix(images, targets)
        with precision.autocast():
            loss = criterion(images, model(images), targets)
        logged = {"loss": loss.detach()}
        return loss, logged, logged, list(numbers)

    train_steps(
        model, batches, len(data_loader), compute, optimizer, precision, max_norm, accumulate,
        average, hook, metrics,
    )  # fmt: skip
    return {"lr": optimizer.param_groups[0]["lr"], **metrics.means_of_all_processes()}


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data_loader: Batches,
    device: torch.device,
    *,
    precision: Precision | None = None,
    hook: StepHook | None = None,
    run: RunProgress | None = None,
    epoch: int | None = None,
) -> dict[str, float]:
    """Classify every image once.

    Args:
        model: itself, not its DistributedDataParallel wrapper: processes may have different
            numbers of batches, and the wrapper's forward pass waits for the others.
        hook: may stop the run by an exception after each batch.
        run: that the evaluation is part of; only to show progress.
        epoch: of training that is evaluated, counted from 0; only to show it.

    Returns:
        loss, the mean of the cross entropy, acc1 and acc5, percentages, over the images of all
        processes; with fewer than five classes acc5 is of as many guesses.

    Raises:
        CommonError: the loss is not finite.
    """
    precision = precision or Precision("off", device)
    model.eval()
    # Images, sum of losses, right by the first guess and by five; whole numbers stay exact.
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    epochs = None if run is None else run.epochs
    label = epoch_of(epoch, epochs, "eval")
    batches = progress(
        data_loader, label, lambda: _accuracies(sums), run=run, cost=COST_OF_EVALUATION,
        last_line=False,
    )  # fmt: skip
    for images, labels, _ in agreed_batches(batches, len(data_loader), device, hook):
        labels = labels.to(device, non_blocking=True)
        with precision.autocast():
            logits = model(images.to(device, non_blocking=True))
        logits = logits.float()
        losses = F.cross_entropy(logits, labels, reduction="none").double()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        sums += torch.stack(
            [torch.full_like(losses, 1).sum(), losses.sum(), best[:, 0].sum(), best.sum()]
        )
    images, loss, first, fifth = dist.all_reduce_sum(sums).tolist()
    if not math.isfinite(loss):
        raise CommonError(
            "the loss of the evaluation is not finite: training has diverged, or its weights are "
            "damaged; resume an earlier checkpoint with a lower --lr"
        )
    stats = {"loss": loss / images, "acc1": 100 * first / images, "acc5": 100 * fifth / images}
    dist.print_main(
        f"{epoch_of(epoch, epochs, 'eval' if epoch is None else 'epoch')}  "
        f"Acc@1 {stats['acc1']:.3f} Acc@5 {stats['acc5']:.3f} loss {stats['loss']:.3f}  "
        f"{int(images)} images"
    )
    return stats


def _summary(metrics: EpochMeans, rate: float) -> list[str]:
    words = [f"{name} {shown_number(value)}" for name, value in metrics.means().items()]
    return [*words, f"lr {shown_number(rate)}"]


def _accuracies(sums: Tensor) -> list[str]:
    images, _, first, fifth = sums.tolist()
    return [f"acc1 {100 * first / max(images, 1):.2f}", f"acc5 {100 * fifth / max(images, 1):.2f}"]
