"""Where a training run is, and everything it needs to go on from there to the bit."""

import argparse
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

from training.amp import Precision
from training.checkpoint_content import check_training
from training.early_stopping import Evaluations
from training.ema import WeightAverage
from training.metrics import MetricLogger
from training.optimizer import load_schedule
from training.output_dir import OutputDir
from training.random_state import random_state, restore_random_state
from util import VERSION
from util import distributed as dist
from util.errors import UserError

# What may differ without being a change of the run: where it runs, and what this file handles.
NOT_OF_THE_RUN = {
    "resume", "output_dir", "start_epoch", "eval", "rank", "world_size", "gpu", "distributed",
    "dist_backend", "dist_url", "checkpoint_every", "trust_checkpoint", "given", "tensorboard",
}  # fmt: skip


def holds_training(checkpoint: dict) -> bool:
    """Does it say where training stopped, or is it weights alone?"""
    return {"optimizer", "lr_scheduler", "epoch"} <= checkpoint.keys()


class RunState:
    """The parts of a run, and how far it is.

    Args:
        classes: names of categories by id, for the checkpoint.
        average: of the model's weights; None without.
        dataset: of the training images; has a length and the methods `skip` and `skipped`. A
            checkpoint then tells how many images there were, and which of them were skipped.

    Attributes:
        epoch: the last epoch that is complete, -1 before the first.
        step: batches done of the epoch after it, all of them part of a step of the optimizer.
        metrics: sums over these steps, of this process.
        log: rows of log.txt, of epochs that are complete and evaluated.
        pending: the row of an epoch that is complete and not yet evaluated; None most of the time.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.AdamW,
        lr_scheduler: StepLR,
        precision: Precision,
        args: argparse.Namespace,
        classes: dict[int, str],
        average: WeightAverage | None = None,
        dataset: Any = None,
    ):
        self.model = model
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.precision = precision
        self.args = args
        self.classes = classes
        self.average = average
        self.dataset = dataset
        self.epoch = args.start_epoch - 1
        self.step = 0
        self.metrics = MetricLogger()
        self.log: list[dict] = []
        self.pending: dict | None = None

    def is_finished(self) -> bool:
        """Are all epochs trained, evaluated and logged, or as many as --early_stop wants?"""
        all_done = self.epoch + 1 >= self.args.epochs
        return self.pending is None and (all_done or self.stops_early())

    def stops_early(self) -> bool:
        """Was the best evaluation so long ago that --early_stop ends the run?"""
        return 0 < self.args.early_stop <= Evaluations(self.log).since_best()

    def why_finished(self) -> tuple[str, str]:
        """What a finished run has, and which option ended it."""
        if self.epoch + 1 >= self.args.epochs:
            return f"all of its {self.epoch + 1} epochs", f"--epochs {self.args.epochs}"
        evaluations = Evaluations(self.log)
        return (
            f"{evaluations.since_best()} evaluation(s) not better than {evaluations.best()}",
            f"--early_stop {self.args.early_stop}",
        )

    def complete_epoch(self, row: dict) -> None:
        """The epoch after the last complete one is complete, too; `row` is what is known of it."""
        self.epoch += 1
        self.step = 0
        self.metrics = MetricLogger()
        self.pending = row

    def evaluated(self, row: dict) -> None:
        """That epoch is evaluated, and `row` is in the log."""
        self.log.append(row)
        self.pending = None

    def resume_log(self, output: OutputDir) -> None:
        """Let `output` have the log up to here; an epoch that is in its log is not pending."""
        rows = output.continue_run(self.args.resume, self.epoch, self.log)
        self.log = dist.broadcast_from_main(rows)
        if any(row["epoch"] == self.epoch for row in self.log):
            self.pending = None

    def state_dict(self) -> dict:
        """The content of a checkpoint; all processes call this together.

        `epoch`, `step` and `lr_scheduler` fit each other in a way that code which knows nothing of
        `step` repeats the begun epoch from its start.
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
            "classes": self.classes,
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
        """Indices of images that the run has skipped so far; all processes call this together."""
        return sorted(set().union(*dist.all_gather(self.dataset.skipped())))

    def load_state_dict(self, checkpoint: dict, steps_per_epoch: int) -> None:
        """Go on from a checkpoint of this project or of the published code.

        The model's weights are not loaded here. What differs from the checkpoint's run is said.

        Args:
            steps_per_epoch: of this run.

        Raises:
            UserError: the checkpoint's optimizer, schedule or position do not fit.
        """
        given = f"--resume {self.args.resume}"
        check_training(checkpoint, given)
        try:
            self._load(checkpoint, steps_per_epoch)
        except (ValueError, RuntimeError) as error:  # of the parts' own checks
            raise UserError(
                f"{given}: its state of training cannot be gone on with "
                f"({next(iter(str(error).splitlines()), '')}); its weights can be evaluated with "
                "--eval"
            ) from error

    def _load(self, checkpoint: dict, steps_per_epoch: int) -> None:
        args = self.args
        before = vars(checkpoint.get("args") or argparse.Namespace()) | load_schedule(
            self.optimizer, self.lr_scheduler, self.model, checkpoint, args
        )
        changed = [
            f"--{name} {before[name]} -> {value}"
            for name, value in vars(args).items()
            if name in before and name not in NOT_OF_THE_RUN and before[name] != value
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
        """The step after which as many images of the epoch are done as in the checkpoint's run."""
        images = step * before.get("batch_size", 1) * before.get("world_size", 1)
        self.step = step
        if images != step * self.args.batch_size * self.args.world_size:
            self.step = images // (self.args.batch_size * self.args.world_size)
        self.step = min(self.step, steps_per_epoch)
