"""Command lines that answer a mistake with one line."""

import argparse
import copy
import math
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from util import dist
from util.errors import CommonError, UserError, lack_of_resources
from util.stopping import Stopped
from util.streams import safe_streams
from util.text import one_line, shorten


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and leaves the lines of examples as they are."""


class OneLineParser(argparse.ArgumentParser):
    """Shows an error without the usage of a hundred options before it."""

    def __init__(self, **options):
        super().__init__(formatter_class=HelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)} (--help lists all options)\n")


def options_given(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> list[str]:
    """Names of the options that a command line sets, be it to their defaults."""
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


def whole_number(least: int, most: float = math.inf) -> Callable[[str], int]:
    """Type of an option that takes whole numbers from `least` to `most`."""
    return _checked(int, "a whole number", least, most)


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """Type of an option that takes finite numbers from `least` to `most`."""
    return _checked(float, "a number", least, most)


def _checked(convert: Callable, kind: str, least: float, most: float) -> Callable:
    limits = f"of at least {least}" if most == math.inf else f"from {least} to {most}"

    def parse(text: str):
        try:
            value = convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"must be {kind}, is {shorten(repr(text), 100)}"
            ) from None
        if not least <= value <= most or value == math.inf:
            raise argparse.ArgumentTypeError(f"must be {kind} {limits}, is {shorten(text, 100)}")
        return value

    return parse


def run_command(command: Callable[[], None]) -> None:
    """Call `command`; what the user can act on becomes one line on stderr, without a traceback.

    The exit code is 1 after a UserError or where memory ran out, EXIT_STOPPED when a run was
    stopped and can be resumed, and 128 + the signal's number otherwise. What all processes of a run
    have to say alike, the main process says.
    """
    with safe_streams():
        code = _exit_code(command)
    if code:
        sys.exit(code)


def _exit_code(command: Callable[[], None]) -> int:
    """Call `command`, and say what went wrong."""
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
        known = lack_of_resources(error)
        if known is None:
            raise
        message, code, by_all = f"error: {known}", 1, False
    # Out of the except clauses nothing holds the frames of the run: its loader workers end now.
    if not by_all or dist.is_main_process():
        print(message, file=sys.stderr, flush=True)
    if by_all:
        dist.shut_down()
    return code
