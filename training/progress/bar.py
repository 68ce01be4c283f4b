"""A bar on a terminal, lines in a log: how far a loop over batches is."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from tqdm import tqdm

from training.progress.run import RunProgress, short_time
from util.cli.streams import messages_above
from util.distributed import is_main_process

SECONDS_BETWEEN_LINES = 30
# A batch of evaluation in batches of training, which have a backward pass: roughly, to show what
# is left.
COST_OF_EVALUATION = 1 / 3
NARROWEST_BAR = 5
NO_TERMINAL = 10_000  # columns of a log, whose lines may be of any length


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


def shown_number(value: float) -> str:
    """Format a number by three digits, or by those before its point."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def fitting(groups: Sequence[Sequence[str]], width: int) -> str:
    """Join words to a line, a space between words and two between groups.

    What does not fit into `width` columns is left out, the first words have precedence.
    """
    line = ""
    for group in groups:
        gap = "  "
        for word in group:
            longer = f"{line}{gap if line else ''}{word}"
            if word and len(longer) <= width:
                line, gap = longer, " "
    return line


def progress(
    batches: Batches,
    label: str,
    status: Callable[[], Sequence[str]] = lambda: (),
    done_before: int = 0,
    run: RunProgress | None = None,
    cost: float = 1,
    last_line: bool = True,
) -> Iterator[Any]:
    """Yield `batches`, showing a bar on a terminal and a line now and then in a log.

    After the status come the share of the time that was spent waiting for data, and the most memory
    that PyTorch has had on this process's GPU. A terminal shows as much as fits into one line. When
    all is done the bar is gone; a line is left in its place.

    Args:
        batches: to go through once.
        label: what the bar begins with.
        status: words to show, the most important first; called only when something is shown, so it
            may wait for the device.
        done_before: batches that an interrupted run went through already.
        run: that they are part of; is updated after each.
        cost: of a batch, in batches of training.
        last_line: leave a line; not needed where the result of the loop is printed.
    """
    if not is_main_process():
        yield from batches
        return
    total = done_before + len(batches)
    on_terminal = sys.stderr.isatty()
    bar = tqdm(
        total=total, initial=done_before, desc=label, disable=not on_terminal, leave=False,
        bar_format="{desc} |{bar}|", ncols=_columns() - 1,
    )  # fmt: skip
    pause = 1 if on_terminal else SECONDS_BETWEEN_LINES
    start = time.monotonic()
    last_shown = 0.0 if on_terminal else start
    waited = Stopwatch(batches)
    done = done_before

    def left() -> str:
        if run is not None:
            return str(run)
        if done == total:
            return ""
        pace = (time.monotonic() - start) / max(done - done_before, 1)
        return f"{short_time(pace * (total - done))} left"

    def line(width: int) -> str:
        words = list(status()), [left()], [_waiting(waited.seconds, start), _gpu_memory()]
        return fitting([[label], [f"{done}/{total}"], *words], width)

    with bar, messages_above(bar if on_terminal else None):
        for batch in waited:
            yield batch
            done += 1
            bar.update()
            if run is not None:
                run.done += cost
            now = time.monotonic()
            if now - last_shown >= pause and done < total:
                last_shown = now
                if on_terminal:
                    # Without the last column: there some terminals begin the next line.
                    bar.ncols = _columns() - 1
                    more = [f"{done}/{total}"], [_waiting(waited.seconds, start), _gpu_memory()]
                    room = bar.ncols - len(f"{label} || ") - NARROWEST_BAR
                    words = fitting([[left()], status(), *more], room)
                    bar.bar_format = f"{{desc}} |{{bar}}| {words}"
                    bar.refresh()
                else:
                    print(line(NO_TERMINAL), flush=True)
    if last_line and done > done_before:
        print(line(_columns() if on_terminal else NO_TERMINAL), flush=True)


def _columns() -> int:
    """Return the width of the terminal, which may change at any time."""
    try:
        return max(os.get_terminal_size(sys.stderr.fileno()).columns, 20)
    except (OSError, ValueError):
        return 80


def _waiting(seconds: float, start: float) -> str:
    return f"data {seconds / max(time.monotonic() - start, 1e-9):.0%}"


def _gpu_memory() -> str:
    if not torch.cuda.is_initialized():
        return ""
    return f"GPU {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
