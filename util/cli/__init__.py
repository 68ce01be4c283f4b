"""Command lines: parsers, errors of one line, exit codes."""

import argparse
import copy
import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from util.errors import CommonError, UserError, one_line, resource_error, truncate
from util.signals import Stopped, write_stderr

from .streams import safe_streams


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """A formatter that shows defaults that say something, and keeps the line breaks of examples."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.nargs == 0 or action.default is None or action.default == "":
            return action.help
        return super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    """A parser that shows an error without the usage of a hundred options before it.

    Attributes:
        checks: what `parse_args` calls with the result; they may change it, or call `error`.
        file_checks: what `answer_first` calls with it; they raise a UserError for missing files.
    """

    def __init__(self, **options):
        super().__init__(formatter_class=HelpFormatter, **options)
        self.checks: list[Callable[[argparse.Namespace], None]] = []
        self.file_checks: list[Callable[[argparse.Namespace], object]] = []

    def parse_args(self, args=None, namespace=None):
        """Parse a command line whose options may stand between its other arguments."""
        mixed = self._get_positional_actions()
        parse = self.parse_intermixed_args if mixed else super().parse_args
        parsed = parse(args, namespace)
        for check in self.checks:
            check(parsed)
        return parsed

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)} (--help lists all options)\n")


def options_given(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> list[str]:
    """Return the names of the options that a command line sets, be it to their defaults."""
    absent = object()
    names = vars(parser.parse_args(argv))
    # Without the checks of a OneLineParser, which have accepted it a line before.
    found, _ = parser.parse_known_args(argv, argparse.Namespace(**dict.fromkeys(names, absent)))
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


@dataclass(frozen=True)
class TextType:
    """An argparse type for texts that `parse` accepts; its ValueError is the message.

    It returns the text itself: checkpoints keep the options as they were given.

    Args:
        parse: may import PyTorch, see `answer_first`.
        empty: a word that stands for the empty text.
    """

    parse: Callable[[str], object]
    empty: str = ""

    def __call__(self, text: str) -> str:
        """Return `text` if it is valid."""
        text = "" if text == self.empty else text
        try:
            self.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text


def answer_first(
    build_parser: Callable[[], OneLineParser], imports: Callable[[], object] | None = None
) -> None:
    """Answer --help, mistakes and missing files before the imports that take seconds.

    A command's file calls this before it imports PyTorch, and `run_command` after it. Ctrl-C
    between them ends the process with one line, whatever is being imported. The values of a
    TextType are left to the parser of the command itself. So are missing files in a run of several
    processes: these have to agree on an error, or some of them wait for the others.

    Args:
        imports: imports a package that may raise a UserError.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as by nohup
        signal.signal(signal.SIGINT, _end_at_once)
    parser = build_parser()
    for action in parser._actions:
        if isinstance(action.type, TextType):
            action.type = None

    def answer() -> None:
        args = parser.parse_args()
        if not {"RANK", "SLURM_PROCID"} & os.environ.keys():
            for check in parser.file_checks:
                check(args)
        if imports is not None:
            imports()

    _run(answer)


def _end_at_once(signum: int, frame: object) -> None:
    """End without KeyboardInterrupt, which libraries that are being imported would catch."""
    write_stderr("interrupted")
    os._exit(128 + signum)


def run_command(command: Callable[[], object]) -> None:
    """Call `command`, show an error that the user can act on as one line, and exit.

    The exit code is 1 after a UserError or if memory ran out, EXIT_STOPPED if a run was stopped
    and can be resumed, and 128 + the signal's number if it was stopped and cannot. Errors that all
    processes of a run raise are shown by the main process alone. Any other exception is a mistake
    of the program and keeps its traceback.
    """
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _run(command)


def _run(command: Callable[[], object]) -> None:
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
    if by_all:
        from util.distributed import is_main_process, shut_down  # not above: it imports PyTorch
    if not by_all or is_main_process():
        print(message, file=sys.stderr, flush=True)
    if by_all:
        shut_down()
    return code
