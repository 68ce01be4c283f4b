"""Standard output and error of a command: harmless to terminals, and no trouble when lost."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from util.stopping import stop_soon
from util.text import printable, shorten

LONGEST_LINE = 20_000  # a row of a table may be long, 900,000 letters are a mistake or an attack


class SafeStream:
    """A text stream as others, that shows text of files by `printable`.

    When nobody reads it any more (a pipe is broken, a terminal closed, a disk is full), what is
    written is dropped.

    Args:
        stream: what is written to.
        is_output: this is standard output: a run that is training stops when it is lost.
    """

    def __init__(self, stream: TextIO, is_output: bool):
        self._stream = stream
        self._is_output = is_output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        # Progress bars go back to the beginning of their line.
        begin = "\r" if text.startswith("\r") and not self._is_output else ""
        lines = text[len(begin) :].split("\n")
        shown = begin + printable("\n".join(shorten(line, LONGEST_LINE) for line in lines))
        encoding = self._stream.encoding or "utf-8"  # StringIO has none
        shown = shown.encode(encoding, "backslashreplace").decode(encoding)
        with self._lost_quietly():
            self._stream.write(shown)
        return len(text)

    def flush(self) -> None:
        with self._lost_quietly():
            self._stream.flush()

    @contextlib.contextmanager
    def _lost_quietly(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            if self._is_output:
                stop_soon(signal.SIGPIPE)
            # What Python still holds for the stream goes there, too, when it exits.
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """sys.stdout and sys.stderr are SafeStreams while this context lasts."""
    _open_closed()
    before = sys.stdout, sys.stderr
    sys.stdout = SafeStream(sys.stdout or open(os.devnull, "w"), is_output=True)  # noqa: SIM115
    sys.stderr = SafeStream(sys.stderr or open(os.devnull, "w"), is_output=False)  # noqa: SIM115
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Let 0, 1 and 2 be open: a file of the run that got such a number would get messages, too."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
