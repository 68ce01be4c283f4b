"""Averages over an epoch and over processes, and progress to look at while it runs."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from util.dist import broadcast_from_main, gather_to_main, is_main_process

SECONDS_BETWEEN_LINES = 30


class MetricLogger:
    """Means of named numbers. Sums stay on their device until somebody reads them."""

    def __init__(self):
        self.names: list[str] = []
        self._sums: Tensor | float = 0.0
        self._count = 0

    def update(self, values: dict[str, Tensor]) -> None:
        """Count one more batch: scalar tensors, the same names every time."""
        self.names = list(values)
        batch = torch.stack([value.detach().double() for value in values.values()])
        self._sums = self._sums + batch
        self._count += 1

    def means(self) -> dict[str, float]:
        """Means over the batches of this process so far."""
        if self._count == 0:
            return {}
        return dict(zip(self.names, (self._sums / self._count).tolist(), strict=True))

    def means_of_all_processes(self) -> dict[str, float]:
        """Means over the batches of all processes, on each of them; one may have no batch."""
        sums = self._sums.tolist() if self._count else []
        gathered = gather_to_main((self.names, sums, self._count))
        means = {}
        if gathered is not None:
            names = max((names for names, _, _ in gathered), key=len)
            total = sum(count for _, _, count in gathered)
            columns = zip(*(sums for _, sums, count in gathered if count), strict=True)
            means = {name: sum(column) / total for name, column in zip(names, columns, strict=True)}
        return broadcast_from_main(means)


def progress(
    batches: Iterable[Any], description: str, status: Callable[[], str] = lambda: ""
) -> Iterator[Any]:
    """Go through `batches`, showing a bar on a terminal and a line now and then in a log.

    Args:
        batches: has a length.
        description: what is going on.
        status: read only when something is shown, so it may wait for the device.
    """
    if not is_main_process():
        yield from batches
        return
    total = len(batches)
    on_terminal = sys.stderr.isatty()
    bar = tqdm(total=total, desc=description, disable=not on_terminal, dynamic_ncols=True)
    start = last_shown = time.monotonic()
    with bar:
        for done, batch in enumerate(batches, start=1):
            yield batch
            bar.update()
            now = time.monotonic()
            pause = 1 if on_terminal else SECONDS_BETWEEN_LINES
            if now - last_shown < pause and done < total:
                continue
            last_shown = now
            if on_terminal:
                bar.set_postfix_str(status())
            else:
                left = timedelta(seconds=round((now - start) / done * (total - done)))
                print(f"{description}  {done}/{total}  {left} left  {status()}", flush=True)
