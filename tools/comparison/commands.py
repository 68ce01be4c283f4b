"""The two commands that can be compared, and what differs between them."""

import argparse
import contextlib
import functools
import importlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import argument_checks
from detection_task import DETECTION
from tools.model_cost.of_options import ImageCost, classifier_cost, detector_cost
from training.early_stopping import Metric
from training.state import Task
from util.cli import options_given
from util.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


class OptionParser(argparse.ArgumentParser):
    """A parser whose errors are UserErrors that begin with the place of the options.

    Args:
        parent: has the options.

    Attributes:
        place: file and key.
    """

    def __init__(self, parent: argparse.ArgumentParser):
        super().__init__(add_help=False, parents=[parent])
        self.place = ""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.place}: {message}")


@dataclass(frozen=True)
class Command:
    """A command that trains.

    Attributes:
        name: of the file, as in study files.
        program: module that has its parser, checks, `Run` and `main`.
        launcher: file that submits it as a job.
        size_option: its option for the size of evaluated images.
        kind: what it trains.
    """

    name: str
    program: str
    launcher: str
    size_option: str
    kind: str

    @property
    def size_name(self) -> str:
        return self.size_option.lstrip("-").replace("-", "_")

    def module(self) -> ModuleType:
        """Import the program; a UserError if what it needs is not installed."""
        return importlib.import_module(self.program)

    def task(self) -> Task:
        """Return metrics and format of the log."""
        if self.name == "main.py":
            return DETECTION
        return importlib.import_module("classification.task").TASK

    def checked_args(self, saved: argparse.Namespace, source: str) -> argparse.Namespace:
        """Check a checkpoint's args; see `training.start.options.checked_options`."""
        if self.name == "main.py":
            return argument_checks.checked_args(saved, source)
        return importlib.import_module("classification.arguments").checked_args(saved, source)

    def parse(self, options: Sequence[str], place: str) -> argparse.Namespace:
        """Parse options as the command does; the names of those given are in `given`.

        Args:
            place: of the options, for messages.

        Raises:
            UserError: the command would refuse them.
        """
        parser = _parser_of(self)
        parser.place = place
        args = parser.parse_args(list(options))
        args.given = options_given(parser, list(options))
        return args

    def check(self, args: argparse.Namespace, place: str) -> None:
        """Check options against each other and the files on disk, as the command does.

        Raises:
            UserError: the command would refuse them.
        """
        check: Callable[[argparse.Namespace], object] = self.module().check_args
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                check(argparse.Namespace(**vars(args)))
        except UserError as error:
            raise UserError(f"{place}: {error}") from error

    def image_cost(self, args: argparse.Namespace) -> ImageCost | None:
        """Return what a forward pass of an image costs; None if that cannot be counted.

        Args:
            args: all options of the command.
        """
        try:
            return detector_cost(args) if self.name == "main.py" else classifier_cost(args)
        except (UserError, RuntimeError):  # a size or a model of timm's that does not do for it
            return None

    def metric_names(self) -> dict[str, str]:
        """Return what messages call the task's metrics, by their names in `training.log.flat`."""
        task = self.task()
        return {_flat_name(metric, task): metric.name for metric in task.metrics}


@functools.cache
def _parser_of(command: Command) -> OptionParser:
    return OptionParser(command.module().get_args_parser())  # which takes longer than to parse


def _flat_name(metric: Metric, task: Task) -> str:
    place = metric.place
    if isinstance(place, int):
        place = task.log.lists[metric.key][place]
    return metric.key if place is None else f"{metric.key}_{place}"


COMMANDS = {
    command.name: command
    for command in (
        Command("main.py", "main", "run_with_submitit.py", "--image_size", "detector"),
        Command(
            "classification/main.py", "classification.run", "classification/run_with_submitit.py",
            "--input-size", "classifier",
        ),
    )
}  # fmt: skip
