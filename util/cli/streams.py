"""Standard streams that are safe to write to, and messages above a progress bar."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, Protocol, TextIO

from util.errors import printable, truncate
from util.signals import request_stop

CLEAR_LINE = "\r\x1b[K"
MAX_LINE = 20_000  # characters; a table's row may be long, 900,000 are a mistake or an attack


class Bar(Protocol):
    """A progress bar, such as tqdm's: draws itself on stderr, each time from the line's begin."""

    def refresh(self) -> Any: ...


_bar: tuple[Bar, int] | None = None  # and the process that draws it; loader workers know it, too


@contextlib.contextmanager
def messages_above(bar: Bar | None) -> Iterator[None]:
    """Let all that is printed in this context stand above `bar`, on lines of its own."""
    global _bar
    before, _bar = _bar, None if bar is None else (bar, os.getpid())
    try:
        yield
    finally:
        _bar = before


class SafeStream:
    """A text stream whose output neither acts on a terminal nor fails when nobody reads it.

    Text is escaped by `printable`. When a pipe is broken, a terminal closed or a disk full, output
    is dropped. On a terminal, text takes the place of a bar, which is drawn again below it.

    Args:
        stream: The stream to write to.
        is_output: True for standard output: a run that is training stops if it is lost.
    """

    def __init__(self, stream: TextIO, is_output: bool):
        self._stream = stream
        self._is_output = is_output
        self._in_message = False  # a line that began in a bar's place has not ended yet

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        # Progress bars, which go to stderr, return to the beginning of their line.
        begin = "\r" if text.startswith("\r") and not self._is_output else ""
        lines = text[len(begin) :].split("\n")
        escaped = begin + printable("\n".join(truncate(line, MAX_LINE) for line in lines))
        encoding = self._stream.encoding or "utf-8"  # StringIO has none
        escaped = escaped.encode(encoding, "backslashreplace").decode(encoding)
        with self._ignore_loss():
            above_bar = bool(text) and not begin and _bar is not None and self._stream.isatty()
            if above_bar and not self._in_message:
                self._stream.write(CLEAR_LINE)
            self._stream.write(escaped)
            self._in_message = above_bar and not text.endswith("\n")
            if above_bar and not self._in_message:
                self._stream.flush()
                self._draw_bar()
        return len(text)

    def flush(self) -> None:
        with self._ignore_loss():
            self._stream.flush()

    def _draw_bar(self) -> None:
        if _bar is not None and _bar[1] == os.getpid():
            _bar[0].refresh()

    @contextlib.contextmanager
    def _ignore_loss(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            if self._is_output:
                request_stop(signal.SIGPIPE)
            # Python flushes its buffer once more when it exits: that goes there, too.
            with open(os.devnull, "w") as devnull:
                os.dup2(devnull.fileno(), self._stream.fileno())


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Make sys.stdout and sys.stderr SafeStreams for the duration of this context."""
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout = SafeStream(sys.stdout or open(os.devnull, "w"), is_output=True)  # noqa: SIM115
    sys.stderr = SafeStream(sys.stderr or open(os.devnull, "w"), is_output=False)  # noqa: SIM115
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _open_closed_descriptors() -> None:
    """Open descriptors 0, 1 and 2 if they are closed.

    Otherwise the next file that the run opens gets such a number, and messages are written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            devnull = os.open(os.devnull, os.O_RDWR)
            if devnull != number:
                os.dup2(devnull, number)
                os.close(devnull)
