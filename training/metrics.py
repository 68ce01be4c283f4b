"""Means over an epoch and over processes, and the progress of a run while it goes."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from util.distributed import broadcast_from_main, gather_to_main, is_main_process

SECONDS_BETWEEN_LINES = 30
# A batch of evaluation in batches of training, which have a backward pass: roughly, to show what
# is left.
COST_OF_EVALUATION = 1 / 3


class EpochMeans:
    """Means of named numbers over batches. Sums stay on their device until somebody reads them.

    Attributes:
        names: of the numbers, in the order of the sums.
        count: batches so far.
    """

    def __init__(self):
        self.names: list[str] = []
        self._sums = torch.zeros(0, dtype=torch.float64)
        self.count = 0

    def update(self, values: dict[str, Tensor]) -> None:
        """Add a batch: scalar tensors by name. With other names than before, sums start anew."""
        if list(values) != self.names:
            self.names, self.count = list(values), 0
        with torch.no_grad():
            batch = torch.stack(list(values.values())).double()
        # Sums that were loaded are on the CPU.
        self._sums = self._sums.to(batch.device) + batch if self.count else batch
        self.count += 1

    def state_dict(self) -> dict:
        """Return the sums of this process so far, on the CPU."""
        return {"names": self.names, "sums": self._sums.cpu(), "count": self.count}

    def load_state_dict(self, *states: dict) -> None:
        """Load the sums of one process, or of several added up.

        Raises:
            ValueError: there are not as many sums as names.
        """
        if any(len(state["names"]) != len(state["sums"]) for state in states):
            raise ValueError("sums of other numbers than are named")
        counted = [state for state in states if state["count"]]
        self.count = sum(state["count"] for state in counted)
        if counted:
            self.names = counted[0]["names"]
            self._sums = torch.stack([state["sums"] for state in counted]).sum(0)

    def means(self) -> dict[str, float]:
        """Return means over the batches of this process so far."""
        if self.count == 0:
            return {}
        return dict(zip(self.names, (self._sums / self.count).tolist(), strict=True))

    def means_of_all_processes(self) -> dict[str, float]:
        """Return means over the batches of all processes, of which some may have none."""
        gathered = gather_to_main((self.names, self._sums.tolist(), self.count))
        means = {}
        if gathered is not None:
            names = max((names for names, _, _ in gathered), key=len)
            total = sum(count for _, _, count in gathered)
            columns = zip(*(sums for _, sums, count in gathered if count), strict=True)
            means = {name: sum(column) / total for name, column in zip(names, columns, strict=True)}
        return broadcast_from_main(means)


class RunProgress:
    """How much of a whole run is done and left, in batches of training; str() of it is shown.

    Args:
        total: batches of all epochs, evaluations included.
        done: batches before the run was resumed.
    """

    def __init__(self, total: float, done: float = 0):
        self.total = total
        self.done = self._done_before = done
        self._start = time.monotonic()

    def __str__(self) -> str:
        here = self.done - self._done_before
        pace = (time.monotonic() - self._start) / here if here else 0
        left = timedelta(seconds=round(max(self.total - self.done, 0) * pace))
        return f"run {min(self.done / self.total, 1):.0%} done, {left} left"


class Batches(Protocol):
    """An iterable with a length, such as a DataLoader."""

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


class Stopwatch:
    """Goes through `batches` and adds up the seconds that their consumer waits for them."""

    def __init__(self, batches: Iterable[Any]):
        self.batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Any]:
        start = time.monotonic()
        for batch in self.batches:
            self.seconds += time.monotonic() - start
            yield batch
            start = time.monotonic()


def _gpu_memory() -> str:
    if not torch.cuda.is_initialized():
        return ""
    return f"  GPU {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"


def progress(
    batches: Batches,
    description: str,
    status: Callable[[], str] = lambda: "",
    done_before: int = 0,
    run: RunProgress | None = None,
    cost: float = 1,
) -> Iterator[Any]:
    """Yield `batches`, showing a bar on a terminal and a line now and then in a log.

    After the status come the share of the time that was spent waiting for data, and the most memory
    that PyTorch has had on this process's GPU.

    Args:
        batches: to go through once.
        description: what the bar is labelled with.
        status: called only when something is shown, so it may wait for the device.
        done_before: batches that an interrupted run went through already.
        run: that they are part of; is updated after each.
        cost: of a batch, in batches of training.
    """
    if not is_main_process():
        yield from batches
        return
    total = done_before + len(batches)
    on_terminal = sys.stderr.isatty()
    bar = tqdm(
        total=total, initial=done_before, desc=description, disable=not on_terminal,
        dynamic_ncols=True,
    )  # fmt: skip
    start = last_shown = time.monotonic()
    waited = Stopwatch(batches)
    with bar:
        for done, batch in enumerate(waited, start=done_before + 1):
            yield batch
            bar.update()
            if run is not None:
                run.done += cost
            now = time.monotonic()
            pause = 1 if on_terminal else SECONDS_BETWEEN_LINES
            if now - last_shown < pause and done < total:
                continue
            last_shown = now
            shown = status() if run is None else f"{run}  {status()}"
            shown += f"  data {waited.seconds / max(now - start, 1e-9):.0%}{_gpu_memory()}"
            if on_terminal:
                bar.set_postfix_str(shown)
            else:
                pace = (now - start) / (done - done_before)
                left = timedelta(seconds=round(pace * (total - done)))
                print(f"{description}  {done}/{total}  {left} left  {shown}", flush=True)
