"""DETR's MetricLogger: smoothed numbers of a loop, printed now and then."""

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from util.distributed import all_gather


class SmoothedValue:
    """A series of numbers, of which the last `window_size` and the mean of all are known.

    Args:
        window_size: How many numbers median, avg, max and value look at.
        fmt: What str() gives, a format of median, avg, global_avg, max and value.
    """

    def __init__(self, window_size: int = 20, fmt: str = "{median:.4f} ({global_avg:.4f})"):
        self.deque: deque[float] = deque(maxlen=window_size)
        self.total = 0.0
        self.count = 0
        self.fmt = fmt

    def update(self, value: float, n: int = 1) -> None:
        """Add a number that is the mean of `n`."""
        self.deque.append(value)
        self.count += n
        self.total += value * n

    def synchronize_between_processes(self) -> None:
        """Make global_avg the mean over all processes; the window stays that of this process."""
        counts, totals = zip(*all_gather((self.count, self.total)), strict=True)
        self.count, self.total = sum(counts), sum(totals)

    @property
    def median(self) -> float:
        """Median of the window; the lower one of two in the middle."""
        return torch.tensor(list(self.deque)).median().item()

    @property
    def avg(self) -> float:
        """Mean of the window."""
        return torch.tensor(list(self.deque), dtype=torch.float32).mean().item()

    @property
    def global_avg(self) -> float:
        """Mean of all numbers."""
        return self.total / self.count

    @property
    def max(self) -> float:
        """Largest number of the window."""
        return max(self.deque)

    @property
    def value(self) -> float:
        """The newest number."""
        return self.deque[-1]

    def __str__(self) -> str:
        return self.fmt.format(
            median=self.median, avg=self.avg, global_avg=self.global_avg, max=self.max,
            value=self.value,
        )  # fmt: skip


class MetricLogger:
    """SmoothedValues by name, which are attributes, too: `logger.loss.global_avg`.

    engine.py does not use it: reading each loss from a GPU would wait for the GPU at every step
    (see `training.metrics`).

    Args:
        delimiter: Between the numbers of a line.
    """

    def __init__(self, delimiter: str = "\t"):
        self.meters: defaultdict[str, SmoothedValue] = defaultdict(SmoothedValue)
        self.delimiter = delimiter

    def update(self, **values: float | Tensor) -> None:
        """Add a number to each of these meters."""
        for name, value in values.items():
            self.meters[name].update(value.item() if isinstance(value, Tensor) else value)

    def add_meter(self, name: str, meter: SmoothedValue) -> None:
        self.meters[name] = meter

    def __getattr__(self, name: str) -> SmoothedValue:
        # self.__dict__, because self.meters would call this again while an object is unpickled.
        meters = self.__dict__.get("meters", {})
        if name not in meters:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return meters[name]

    def __str__(self) -> str:
        return self.delimiter.join(f"{name}: {meter}" for name, meter in self.meters.items())

    def synchronize_between_processes(self) -> None:
        for meter in self.meters.values():
            meter.synchronize_between_processes()

    def log_every(
        self, iterable: Iterable[Any], print_freq: int, header: str | None = None
    ) -> Iterator[Any]:
        """Yield the items, and print the meters and times after each `print_freq` of them.

        Args:
            iterable: Has a length.
            header: Printed before each line.
        """
        header, total = header or "", len(iterable)
        iter_time, data_time = SmoothedValue(fmt="{avg:.4f}"), SmoothedValue(fmt="{avg:.4f}")
        start = end = time.monotonic()
        for i, item in enumerate(iterable):
            data_time.update(time.monotonic() - end)
            yield item
            iter_time.update(time.monotonic() - end)
            if i % print_freq == 0 or i == total - 1:
                eta = timedelta(seconds=int(iter_time.global_avg * (total - i)))
                parts = [
                    header, f"[{i:{len(str(total))}d}/{total}]", f"eta: {eta}", str(self),
                    f"time: {iter_time}", f"data: {data_time}",
                ]  # fmt: skip
                if torch.cuda.is_available():
                    parts.append(f"max mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}")
                print(self.delimiter.join(parts), flush=True)
            end = time.monotonic()
        seconds = time.monotonic() - start
        print(
            f"{header} Total time: {timedelta(seconds=int(seconds))} "
            f"({seconds / max(total, 1):.4f} s / it)"
        )
