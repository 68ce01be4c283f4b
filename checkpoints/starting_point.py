"""--resume, --frozen_weights, --finetune: where the weights of a run come from."""

import argparse
from collections.abc import Callable
from typing import Any

from torch import nn

from argument_checks import checkpoints_given, finds_checkpoint, with_defaults
from models.rpe_attention.enc_rpe2d import same_encoding
from training.ema import has_average, weights_to_use
from training.output_dir import REPORT, OutputDir
from training.start.processes import open_resumed
from training.start.saved_model import check_finite
from util.checkpoint import load_checkpoint
from util.cli import with_options
from util.distributed import broadcast_from_main, print_main
from util.schema import describe

from .compatibility import (
    check_same_model,
    class_names,
    count_classes,
    load_weights,
    saved_args,
)
from .finetune import Transfer
from .finetune_options import model_options, training_options
from .infer_options import infer_options


class StartingPoint:
    """The checkpoint to resume, to start from (--finetune) or to freeze; or none of them.

    Args:
        args: options as given.

    Attributes:
        checkpoint: what to resume; None for a new run.
        weights_are_given: some checkpoint will be read, not counting one that --resume auto may
            find.
        report: a line for each tensor, what --finetune did with it; empty without.

    Raises:
        UserError: a checkpoint cannot be read, or is of another model.
    """

    def __init__(self, args: argparse.Namespace):
        self.checkpoint = self._frozen = self._source = self._saved = None
        self.report = ""
        goes_on = broadcast_from_main(finds_checkpoint(args))
        given = checkpoints_given(args, goes_on)
        self.weights_are_given = goes_on or bool(given)
        self._resumed = given.get("resume", "")
        if not args.finetune:
            return
        # A resumed run has the options that --finetune had given it.
        if goes_on:
            output = OutputDir(args.output_dir)
            self._resumed, self.checkpoint = output.newest_checkpoint(args.trust_checkpoint)
            print_main(f"resuming {self._resumed}")
        elif self._resumed:
            self.checkpoint = load_checkpoint(self._resumed, args.trust_checkpoint)
        else:
            self._source = load_checkpoint(args.finetune, args.trust_checkpoint)
        name = f"--resume {self._resumed}" if self._resumed else f"--finetune {args.finetune}"
        self._saved = _options_of(self.checkpoint or self._source, name)

    def complete(self, args: argparse.Namespace) -> argparse.Namespace:
        """Return `args` with the options that --finetune decides where they are not given."""
        if self._saved is None:
            return args
        path = self._resumed or args.finetune
        if self._resumed:
            args = with_options(args, resume=self._resumed)
        model = model_options(args, self._saved)
        training = training_options(args, self._saved, resumed=self.checkpoint is not None)
        for of, adopted in (("the model", model), ("training", training)):
            if adopted:
                options = " ".join(f"--{name} {value!r}" for name, value in adopted.items())
                print_main(f"options of {of} by {path}: {options}")
        return with_options(args, **model, **training)

    def open(
        self, args: argparse.Namespace, newest_checkpoint: Callable[[bool], tuple[str, Any]]
    ) -> argparse.Namespace:
        """Read the checkpoint, if that is not done yet.

        Args:
            newest_checkpoint: what --resume auto calls, see `open_resumed`.

        Returns:
            `args` with the path that --resume auto found, and num_classes and category_ids where
            the checkpoint decides them.
        """
        args, self.checkpoint = open_resumed(args, newest_checkpoint, self.checkpoint)
        if args.resume:
            return with_options(args, **check_same_model(self.checkpoint, args))
        if args.frozen_weights:
            self._frozen = load_checkpoint(args.frozen_weights, args.trust_checkpoint)
            return with_options(args, **check_same_model(self._frozen, args, "frozen_weights"))
        return args

    def load_weights(
        self, model: nn.Module, args: argparse.Namespace, names: dict[int, str]
    ) -> None:
        """Load the weights of the model, or of its frozen detector.

        Training continues with the weights it had; in all other cases the averaged weights are
        used, if there are any.

        Args:
            names: of the data's classes, by label; if those of the checkpoint differ, that is
                printed.

        Raises:
            UserError: something does not fit.
        """
        if self.checkpoint is not None:
            given = f"--resume {args.resume}"
            _load(model, self.checkpoint, given, names, to_train_on=not args.eval)
        elif self._frozen is not None:
            _load(model.detr, self._frozen, f"--frozen_weights {args.frozen_weights}", names)
        elif self._source is not None:
            self._transfer(model, args, names)
        self._frozen = self._source = None  # the memory

    def _transfer(self, model: nn.Module, args: argparse.Namespace, names: dict[int, str]) -> None:
        given = f"--finetune {args.finetune}"
        transfer = Transfer(
            weights_to_use(self._source),
            class_names(self._source, count_classes(self._source)),
            names,
            same_rpe=same_encoding(self._saved.enc_rpe2d, args.enc_rpe2d),
            source=given,
        )
        transfer.load(model)
        check_finite(model, given)
        _print_average(self._source, given)
        where = f"; {REPORT} lists them" if args.output_dir else ""
        print_main(f"{transfer.summary()}{where}")
        self.report = transfer.report()


def _options_of(checkpoint: Any, given: str) -> argparse.Namespace:
    """Return all options of a checkpoint's model; a UserError if it is not of a detector."""
    saved = saved_args(checkpoint, given)
    if saved is None:
        return infer_options(checkpoint["model"], given)[0]
    return with_defaults(saved, given)


def _load(
    model: nn.Module, checkpoint: dict, given: str, names: dict[int, str], to_train_on: bool = False
) -> None:
    load_weights(model, checkpoint, given, to_train_on)
    _print_other_classes(checkpoint, names, given)
    if not to_train_on:
        _print_average(checkpoint, given)


def _print_other_classes(checkpoint: dict, names: dict[int, str], given: str) -> None:
    saved = checkpoint.get("classes") or {}
    others = [
        f"{label} is {describe(saved[label])} there, {describe(name)} here"
        for label, name in names.items()
        if saved.get(label, name) != name
    ]
    missing = [name for label, name in names.items() if label not in saved]
    others += [f"{describe(name)} is not there" for name in missing]
    if saved and others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        print_main(f"{given}: its classes are not the data's: {', '.join(others[:3])}{more}")


def _print_average(checkpoint: dict, given: str) -> None:
    if has_average(checkpoint):
        print_main(f"{given}: its averaged weights are used")
