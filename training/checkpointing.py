"""When a run saves itself and when it stops: decided by all processes together, between steps."""

import time

from training.metrics import MetricLogger
from training.output_dir import OutputDir
from training.state import RunState
from util.distributed import is_main_process, print_main
from util.signals import Stopped, StopSignals

GO_ON, SAVE = 0, 1  # larger numbers: SAVE + the number of the signal that stops the run


class SavePoints:
    """The `engine.Boundary` of a run.

    Args:
        minutes: between checkpoints within an epoch; 0 for none.
    """

    def __init__(self, state: RunState, output: OutputDir, signals: StopSignals, minutes: float):
        self.state = state
        self.output = output
        self.signals = signals
        self.pause = minutes * 60
        self._last = time.monotonic()

    def wanted(self) -> int:
        """What this process wants: GO_ON, SAVE or SAVE + signal. The main process has the clock."""
        if self.signals.received:
            return SAVE + self.signals.received
        due = self.pause and is_main_process() and time.monotonic() - self._last >= self.pause
        return SAVE if due and not self.output.is_nowhere else GO_ON

    def reached(self, agreed: int, metrics: MetricLogger, batches: int) -> None:
        """A step is done. Save if any process wants to; raise Stopped if one got a signal."""
        self.state.step += batches
        self.state.metrics = metrics
        if agreed != GO_ON:
            self.save()
        self.between_batches(agreed)

    def between_batches(self, agreed: int) -> None:
        """Of an evaluation, before which all was saved: only stop."""
        if agreed > SAVE:
            raise Stopped(agreed - SAVE, saved=not self.output.is_nowhere)

    def save(self) -> None:
        """Write checkpoint.pth; all processes call this together."""
        if self.output.is_nowhere:
            return
        start = time.monotonic()
        state = self.state.state_dict()
        self.output.save_training(state)
        self._last = time.monotonic()
        if self.state.step:
            print_main(
                f"saved after step {self.state.step} of epoch {self.state.epoch + 1} "
                f"in {self._last - start:.1f} s"
            )
