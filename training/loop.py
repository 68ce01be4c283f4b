"""The epochs of a run: when it trains, evaluates, saves itself and stops."""

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from torch import nn

from training.consensus import Request, StepHook
from training.ddp import broadcast_buffers
from training.early_stopping import Evaluations
from training.metrics import EpochMeans
from training.output_dir import OutputDir
from training.progress.bar import COST_OF_EVALUATION
from training.progress.run import RunProgress, epoch_of
from training.state import TrainState, has_optimizer_state
from util.distributed import is_main_process, print_main
from util.signals import Stopped, StopSignals


class Checkpointing:
    """The `StepHook` of a run: all processes decide together, between steps, to save or stop.

    Args:
        minutes: between checkpoints within an epoch; 0 for none.
    """

    def __init__(self, state: TrainState, output: OutputDir, signals: StopSignals, minutes: float):
        self.state = state
        self.output = output
        self.signals = signals
        self.pause = minutes * 60
        self._last = time.monotonic()

    def request(self) -> Request:
        """Ask to stop after a signal, and to save when it is time by the main process's clock."""
        due = self.pause and is_main_process() and time.monotonic() - self._last >= self.pause
        return Request(bool(due), self.signals.received or 0)

    def on_step_end(self, agreed: Request, metrics: EpochMeans, batches: int) -> None:
        """Count a step. Save if any process wants to; raise Stopped if one received a signal."""
        self.state.step += batches
        self.state.metrics = metrics
        if agreed.save or agreed.signum:
            self.save()
        self.on_batch_end(agreed)

    def on_batch_end(self, agreed: Request) -> None:
        """Only stop: all was saved before the evaluation."""
        if agreed.signum:
            raise Stopped(agreed.signum, saved=not self.output.is_nowhere)

    def save(self) -> None:
        """Write checkpoint.pth; all processes call this together."""
        if self.output.is_nowhere:
            return
        start = time.monotonic()
        self.output.save_training(self.state.state_dict())
        self._last = time.monotonic()
        if self.state.step:
            print_main(f"saved after {self.state.position()} in {self._last - start:.1f} s")


class TrainEpoch(Protocol):
    """`engine.train_one_epoch`, with all that is the same in each epoch bound."""

    def __call__(
        self, *, epoch: int, hook: StepHook, steps_before: int, metrics: EpochMeans,
        run: RunProgress,
    ) -> dict: ...  # fmt: skip


class EvaluateEpoch(Protocol):
    """Returns the numbers of an evaluation after an epoch."""

    def __call__(self, epoch: int, *, hook: StepHook, run: RunProgress) -> dict: ...


class TrainingBatches(Protocol):
    """A loader of training images, such as `datasets.loaders.Loader`."""

    def set_position(self, epoch: int, step: int) -> None: ...

    def __len__(self) -> int: ...


@dataclass(eq=False)
class Epochs:
    """Trains and evaluates the epochs of a run, each with its checkpoint and line of the log.

    Args:
        loader: of the training images.
        train_epoch, evaluate: what a task does in an epoch; they return numbers by name.
        shares_buffers: give all processes the main one's buffers after each epoch.
        progress: of the run.
    """

    state: TrainState
    loader: TrainingBatches
    output: OutputDir
    train_epoch: TrainEpoch
    evaluate: EvaluateEpoch
    shares_buffers: bool
    progress: RunProgress

    def run(self) -> None:
        """Do the epochs that are not done yet.

        Raises:
            Stopped: a signal stopped the run; it has saved itself.
        """
        start, state = time.monotonic(), self.state
        with StopSignals(verbose=is_main_process()) as signals:
            hook = Checkpointing(state, self.output, signals, state.args.checkpoint_every)
            while not state.is_finished():
                if state.pending is None:  # else it was stopped between training and evaluation
                    self._train(hook)
                hook.save()  # also if nothing was trained: the checkpoint may be of another folder
                self._finish(hook)
            hook.save()  # with the last evaluation
        if state.epoch + 1 < state.args.epochs:
            print_main("stopped early: {}, {}".format(*state.why_finished()))
        elif best := Evaluations(state.log, state.task.metrics).best():
            print_main(f"the best evaluation: {best} of {epoch_of(best.epoch, state.args.epochs)}")
        print_main(f"Training time {timedelta(seconds=round(time.monotonic() - start))}")

    def _train(self, hook: StepHook) -> None:
        """Train on what the next epoch has left."""
        args, state, epoch = self.state.args, self.state, self.state.epoch + 1
        self.loader.set_position(epoch, state.step)
        images = len(self.loader) * args.batch_size * args.world_size
        start = time.monotonic()
        stats = self.train_epoch(
            epoch=epoch, hook=hook, steps_before=state.step, metrics=state.metrics,
            run=self.progress,
        )  # fmt: skip
        self.output.save_speed(epoch, images, time.monotonic() - start)
        if self.shares_buffers:
            broadcast_buffers(state.model)
            if state.average is not None:
                broadcast_buffers(state.average.module)
        state.lr_scheduler.step()
        row = {f"train_{name}": value for name, value in stats.items()}
        state.complete_epoch(row | state.task.epoch_numbers(state))

    def _finish(self, hook: StepHook) -> None:
        """Evaluate the epoch where that is due, and write its line of log.txt."""
        args, state, epoch, row = self.state.args, self.state, self.state.epoch, {}
        if state.task.keeps_checkpoint(epoch, args):
            self.output.keep_checkpoint(epoch)
        if (epoch + 1) % args.eval_every == 0 or epoch + 1 >= args.epochs:
            stats = self.evaluate(epoch, hook=hook, run=self.progress)
            row = {f"test_{name}": value for name, value in stats.items()}
        trained = {"n_parameters": count_trained(state.model)}
        row = {**(state.pending or {}), **row, "epoch": epoch, **trained}
        # Before log.txt has the epoch: after a stop in between it is evaluated and compared again.
        best = Evaluations([*state.log, row], state.task.metrics).best()
        if best is not None and best.epoch == epoch:
            self.output.keep_best()
        self.output.append_log(row)
        state.finish_evaluation(row)


def go_on(
    state: TrainState, checkpoint: dict | None, steps: int, output: OutputDir, report: str = ""
) -> bool:
    """Resume from a checkpoint, if there is one, and prepare the folder of the run.

    Args:
        checkpoint: of a run, or of weights alone.
        steps: batches of a whole epoch of training.
        report: what --finetune did with each tensor.

    Returns:
        False if nothing is left to do, which is printed.
    """
    if checkpoint is not None and has_optimizer_state(checkpoint):
        state.load_state_dict(checkpoint, steps)
        if not state.is_finished() and (state.step or state.epoch >= 0):
            print_main(f"resumed after {state.position()}")
    if not state.is_finished():
        state.resume_log(output)
        output.save_report(report)
    if state.is_finished():
        what, option = state.why_finished()
        print_main(f"{state.args.resume or 'this run'} has {what}; nothing to do at {option}")
        return False
    return True


def run_progress(state: TrainState, steps: int, val_batches: int) -> RunProgress:
    """Return the progress of a run, with what `state` has done already.

    Args:
        steps: batches of a whole epoch of training.
        val_batches: batches of an evaluation.
    """
    args = state.args

    def cost(epochs: int) -> float:
        evaluations = epochs // args.eval_every
        if epochs == args.epochs and epochs % args.eval_every:
            evaluations += 1  # the last epoch is always evaluated
        return epochs * steps + evaluations * val_batches * COST_OF_EVALUATION

    return RunProgress(cost(args.epochs), cost(state.epoch + 1) + state.step, args.epochs)


def count_trained(model: nn.Module) -> int:
    """Return how many numbers training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
