"""Command lines: parsers, errors of one line, exit codes, and safe standard streams."""

import argparse
import contextlib
import copy
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Protocol, TextIO

from util.distributed import is_main_process, shut_down
from util.errors import CommonError, UserError, one_line, printable, resource_error, truncate
from util.signals import Stopped, request_stop

CLEAR_LINE = "\r\x1b[K"
MAX_LINE = 20_000  # characters; a table's row may be long, 900,000 are a mistake or an attack


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """A formatter that shows defaults and keeps the line breaks of examples."""


class OneLineParser(argparse.ArgumentParser):
    """A parser that shows an error without the usage of a hundred options before it."""

    def __init__(self, **options):
        super().__init__(formatter_class=HelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)} (--help lists all options)\n")


def options_given(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> list[str]:
    """Return the names of the options that a command line sets, be it to their defaults."""
    absent = object()
    names = vars(parser.parse_args(argv))
    found = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(names, absent)))
    return [name for name, value in vars(found).items() if value is not absent]


def with_options(args: argparse.Namespace, **values) -> argparse.Namespace:
    """Return a copy of `args` in which some options have other values.

    Options that are decided later than on the command line, such as the number of classes, are
    added so: nothing that was handed `args` before has to fear that they change.
    """
    changed = copy.copy(args)
    vars(changed).update(values)
    return changed


def whole_number(low: int, high: float = math.inf) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from `low` to `high`."""
    return _number_type(int, "a whole number", low, high)


def number(low: float, high: float = math.inf) -> Callable[[str], float]:
    """Return an argparse type for finite numbers from `low` to `high`."""
    return _number_type(float, "a number", low, high)


def _number_type(convert: Callable, kind: str, low: float, high: float) -> Callable:
    limits = f"of at least {low}" if high == math.inf else f"from {low} to {high}"

    def parse(text: str):
        try:
            value = convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"must be {kind}, is {truncate(repr(text), 100)}"
            ) from None
        if not low <= value <= high or value == math.inf:
            raise argparse.ArgumentTypeError(f"must be {kind} {limits}, is {truncate(text, 100)}")
        return value

    return parse


def text_type(parse: Callable[[str], object], empty: str = "") -> Callable[[str], str]:
    """Return an argparse type for texts that `parse` accepts; its ValueError is the message.

    It returns the text itself: checkpoints keep the options as they were given.

    Args:
        empty: a word that stands for the empty text.
    """

    def check(text: str) -> str:
        text = "" if text == empty else text
        try:
            parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return check


def run_command(command: Callable[[], object]) -> None:
    """Call `command`, show an error that the user can act on as one line, and exit.

    The exit code is 1 after a UserError or if memory ran out, EXIT_STOPPED if a run was stopped
    and can be resumed, and 128 + the signal's number if it was stopped and cannot. Errors that all
    processes of a run raise are shown by the main process alone. Any other exception is a mistake
    of the program and keeps its traceback.
    """
    with safe_streams():
        code = _exit_code(command)
    if code:
        sys.exit(code)


def _exit_code(command: Callable[[], object]) -> int:
    try:
        command()
        return 0
    except UserError as error:
        message, code, by_all = f"error: {error}", 1, isinstance(error, CommonError)
    except Stopped as stop:
        message, code, by_all = str(stop), stop.exit_code, True
    except KeyboardInterrupt:
        message, code, by_all = "interrupted", 128 + signal.SIGINT, False
    except Exception as error:
        known = resource_error(error)
        if known is None:
            raise
        message, code, by_all = f"error: {known}", 1, False
    # Outside of the except clauses no traceback holds the frames of the run any more, so its loader
    # workers end now.
    if not by_all or is_main_process():
        print(message, file=sys.stderr, flush=True)
    if by_all:
        shut_down()
    return code


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
