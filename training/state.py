"""Where a training run is, and everything it needs to be resumed bit by bit."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from training.amp import Precision
from training.checkpoint_content import ADAMW, check_training
from training.early_stopping import Evaluations, Metric
from training.ema import WeightAverage
from training.log import PLAIN, LogFormat
from training.metrics import EpochMeans
from training.output_dir import OutputDir
from training.progress.run import epoch_of
from training.random_state import random_state, restore_random_state
from util import VERSION
from util import distributed as dist
from util.errors import UserError
from util.schema import Check

# Options that may differ without being a change of the run, or that are handled here.
IGNORED_ON_RESUME = {
    "resume", "output_dir", "start_epoch", "eval", "rank", "world_size", "gpu", "distributed",
    "dist_backend", "dist_url", "checkpoint_every", "trust_checkpoint", "given", "tensorboard",
    "eval_table",
}  # fmt: skip


class Task(NamedTuple):
    """What the state of a run depends on besides its model and data.

    Attributes:
        metrics: what evaluations are compared by; the first that a row of log.txt has decides.
        schedule: what "lr_scheduler" holds in a checkpoint.
        param_groups: most parameter groups of the optimizer.
        load_schedule: loads a checkpoint's optimizer and schedule, called with (optimizer,
            lr_scheduler, model, checkpoint, args); returns the options that they were made with.
        keeps_checkpoint: whether the checkpoint after an epoch is kept under a name of its own,
            called with (epoch, args).
        epoch_numbers: further numbers of a row of log.txt, called with the state after training;
            all processes call it together.
        optimizer: what a checkpoint's optimizer has to hold, its state and each of its groups;
            called with args.
        log: what the task writes to log.txt besides plain numbers.
    """

    metrics: Sequence[Metric]
    schedule: Check
    param_groups: int
    load_schedule: Callable[..., dict[str, Any]]
    keeps_checkpoint: Callable[[int, argparse.Namespace], bool]
    epoch_numbers: Callable[["TrainState"], dict[str, float]] = lambda _: {}
    optimizer: Callable[[argparse.Namespace], tuple[Check, Check]] = lambda _: ADAMW
    log: LogFormat = PLAIN


class Schedule(Protocol):
    """Of the learning rate: steps after each epoch. PyTorch's schedulers are such."""

    def step(self) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...


def has_optimizer_state(checkpoint: dict) -> bool:
    """Tell a checkpoint of a run from one that holds weights alone."""
    return {"optimizer", "lr_scheduler", "epoch"} <= checkpoint.keys()


class TrainState:
    """The parts of a run, and how far it is.

    Args:
        args: options of the run; they are kept in checkpoints.
        extra: further entries of checkpoints.
        average: of the model's weights; None without.
        dataset: of the training images; has a length and the methods `skip` and `skipped`. A
            checkpoint then says how many images there were, and which of them were skipped.

    Attributes:
        epoch: the last epoch that is complete, -1 before the first.
        step: batches done of the epoch after it, all of them part of a step of the optimizer.
        metrics: sums over these batches, of this process.
        log: rows of log.txt, of epochs that are complete and evaluated.
        pending: the row of an epoch that is complete and not yet evaluated; else None.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Schedule,
        precision: Precision,
        args: argparse.Namespace,
        extra: dict[str, Any] | None = None,
        average: WeightAverage | None = None,
        dataset: Any = None,
    ):
        self.task = task
        self.model = model
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.precision = precision
        self.args = args
        self.extra = extra or {}
        self.average = average
        self.dataset = dataset
        self.epoch = args.start_epoch - 1
        self.step = 0
        self.metrics = EpochMeans()
        self.log: list[dict] = []
        self.pending: dict | None = None

    def is_finished(self) -> bool:
        """Say whether all epochs are trained, evaluated and logged, or --early_stop is reached."""
        if self.pending is not None:
            return False
        stops_early = 0 < self.args.early_stop <= self._evaluations().since_best()
        return self.epoch + 1 >= self.args.epochs or stops_early

    def why_finished(self) -> tuple[str, str]:
        """Return what a finished run has, and which option ended it."""
        if self.epoch + 1 >= self.args.epochs:
            return f"all of its {self.epoch + 1} epochs", f"--epochs {self.args.epochs}"
        evaluations = self._evaluations()
        best = evaluations.best()
        assert best is not None, "nothing to wait for"
        return (
            f"{evaluations.since_best()} evaluation(s) not better than {best} of "
            f"{epoch_of(best.epoch, self.args.epochs)}",
            f"--early_stop {self.args.early_stop}",
        )

    def position(self) -> str:
        """Return what is done: "epoch 3/20", or "step 5 of epoch 4/20" within an epoch."""
        if self.step:
            return f"step {self.step} of {epoch_of(self.epoch + 1, self.args.epochs)}"
        return epoch_of(self.epoch, self.args.epochs)

    def _evaluations(self) -> Evaluations:
        return Evaluations(self.log, self.task.metrics)

    def complete_epoch(self, row: dict) -> None:
        """Count the epoch as trained; `row` is what log.txt will say of its training."""
        self.epoch += 1
        self.step = 0
        self.metrics = EpochMeans()
        self.pending = row

    def finish_evaluation(self, row: dict) -> None:
        """Count the epoch as evaluated, where that was due; `row` is its row of log.txt."""
        self.log.append(row)
        self.pending = None

    def resume_log(self, output: OutputDir) -> None:
        """Write the log so far to `output`; an epoch that its own log has needs no evaluation."""
        rows = output.continue_run(self.args.resume, self.epoch, self.log)
        self.log = dist.broadcast_from_main(rows)
        if any(row["epoch"] == self.epoch for row in self.log):
            self.pending = None

    def state_dict(self) -> dict:
        """Return the content of a checkpoint; all processes call this together.

        `epoch`, `step` and `lr_scheduler` fit each other in such a way that code which does not
        know of `step` repeats the interrupted epoch from its start.
        """
        mine = {
            "random": random_state(self.precision.device),
            "metrics": self.metrics.state_dict(),
        }
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "processes": dist.gather_to_main(mine),
            "log": self.log,
            "pending": self.pending,
            "args": self.args,
            **self.extra,
            "version": VERSION,
        }
        if self.precision.scaler.is_enabled():
            state["scaler"] = self.precision.scaler.state_dict()
        if self.average is not None:
            state |= self.average.to_checkpoint()
        if self.dataset is not None:
            state |= {"images": len(self.dataset), "skipped": self.skipped()}
        return state

    def skipped(self) -> list[int]:
        """Return the images that the run has skipped; all processes call this together."""
        return sorted(set().union(*dist.all_gather(self.dataset.skipped())))

    def load_state_dict(self, checkpoint: dict, steps_per_epoch: int) -> None:
        """Resume from a checkpoint of this project or of the published code.

        The model's weights are not loaded here. Options that changed since are printed.

        Args:
            steps_per_epoch: of this run.

        Raises:
            UserError: the checkpoint's optimizer, schedule or position do not fit.
        """
        path = f"--resume {self.args.resume}"
        task = self.task
        check_training(
            checkpoint, path, task.schedule, task.param_groups, task.optimizer(self.args), task.log
        )
        try:
            self._load(checkpoint, steps_per_epoch)
        except (ValueError, RuntimeError) as error:  # of PyTorch's own checks
            raise UserError(
                f"{path}: training cannot be resumed from it "
                f"({next(iter(str(error).splitlines()), '')}); its weights can be evaluated with "
                "--eval"
            ) from error

    def _load(self, checkpoint: dict, steps_per_epoch: int) -> None:
        args = self.args
        before = vars(checkpoint.get("args") or argparse.Namespace()) | self.task.load_schedule(
            self.optimizer, self.lr_scheduler, self.model, checkpoint, args
        )
        changed = [
            f"--{name} {before[name]} -> {value}"
            for name, value in vars(args).items()
            if name in before and name not in IGNORED_ON_RESUME and before[name] != value
        ]
        if changed:
            dist.print_main(f"changed since the checkpoint: {', '.join(changed)}")
        if checkpoint.get("scaler"):
            self.precision.scaler.load_state_dict(checkpoint["scaler"])
        if self.average is not None:
            self.average.load_checkpoint(checkpoint)
        self.epoch = checkpoint["epoch"]
        self.log = checkpoint.get("log", [])
        self.pending = checkpoint.get("pending")
        if self.dataset is not None:
            self._load_images(checkpoint.get("images", len(self.dataset)), checkpoint)
        self._load_processes(checkpoint.get("processes", []))
        self._load_step(checkpoint.get("step", 0), before, steps_per_epoch)

    def _load_images(self, images: int, checkpoint: dict) -> None:
        if images != len(self.dataset):
            dist.print_main(
                f"the checkpoint's run had {images} training images, there are {len(self.dataset)} "
                "now: it goes on, but not as the same run"
            )
        else:
            self.dataset.skip(i for i in checkpoint.get("skipped", []) if i < images)

    def _load_processes(self, processes: list[dict]) -> None:
        """Restore random generators and sums, each process its own if there are as many."""
        rank, count = dist.get_rank(), dist.get_world_size()
        if rank < len(processes):
            restore_random_state(processes[rank]["random"], self.precision.device)
        if len(processes) == count:
            self.metrics.load_state_dict(processes[rank]["metrics"])
        elif rank == 0:
            self.metrics.load_state_dict(*(process["metrics"] for process in processes))
        if processes and len(processes) != count:
            dist.print_main(
                f"the checkpoint is of {len(processes)} process(es), this run has {count}: it goes "
                "on, but not as the same run"
            )

    def _load_step(self, step: int, before: dict, steps_per_epoch: int) -> None:
        """Set the step after which as many images are done as in the checkpoint's run."""
        images = step * before.get("batch_size", 1) * before.get("world_size", 1)
        self.step = step
        if images != step * self.args.batch_size * self.args.world_size:
            self.step = images // (self.args.batch_size * self.args.world_size)
        self.step = min(self.step, steps_per_epoch)
