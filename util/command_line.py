"""Command lines that answer a mistake with one line."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from util.errors import UserError, user_message


class OneLineParser(argparse.ArgumentParser):
    """Shows defaults in --help, and an error without the usage of a hundred options before it."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.ArgumentDefaultsHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help lists all options)\n")


def whole_number(least: int) -> Callable[[str], int]:
    """Type of an option that takes whole numbers from `least` on."""
    return _checked(int, "a whole number", least)


def number(least: float) -> Callable[[str], float]:
    """Type of an option that takes finite numbers from `least` on."""
    return _checked(float, "a number", least)


def _checked(convert: Callable, kind: str, least: float) -> Callable:
    def parse(text: str):
        try:
            value = convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {kind}, is {text!r}") from None
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be {kind} of at least {least}, is {text}")
        return value

    return parse


def run_command(command: Callable[[], None]) -> None:
    """Call `command`; a UserError becomes one line on stderr and exit code 1, no traceback."""
    try:
        command()
    except UserError as error:
        print(f"error: {user_message(error)}", file=sys.stderr, flush=True)
        sys.exit(1)
