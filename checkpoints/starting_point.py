"""Where the weights of a run come from."""

import argparse
from pathlib import Path
from typing import Any

from torch import nn

from arguments import with_defaults
from training.ema import has_average, weights_to_use
from training.output_dir import OutputDir
from util.checkpoint import load_checkpoint
from util.distributed import print_main
from util.errors import UserError
from util.schema import describe

from .class_names import class_names
from .compatibility import (
    check_finite,
    check_same_model,
    count_classes,
    load_weights,
    saved_args,
)
from .finetune import Transfer, adopt_options
from .infer_options import infer_options


def _given_checkpoints(args: argparse.Namespace) -> dict[str, str]:
    """The checkpoints that will be read, by option; none that --resume auto may find.

    Raises:
        UserError: one of them is not there, or they exclude each other.
    """
    given = {
        "resume": args.resume, "frozen_weights": args.frozen_weights, "finetune": args.finetune,
    }  # fmt: skip
    if args.frozen_weights and args.finetune:
        raise UserError("--frozen_weights and --finetune exclude each other")
    if args.finetune and args.eval:
        raise UserError("--finetune starts a training; --eval takes its checkpoint by --resume")
    if args.resume == "auto":
        del given["resume"]
    elif args.resume:
        given = {"resume": args.resume}  # it has all that another would give
    given = {option: path for option, path in given.items() if path}
    for option, path in given.items():
        if "://" not in path and not Path(path).is_file():
            raise UserError(f"--{option} {path}: no such file")
    return given


class StartingPoint:
    """A checkpoint to go on with, or one to start anew from, or a detector to freeze, or none.

    Sets options of the model in `args` that --finetune leaves to a checkpoint.

    Attributes:
        checkpoint: what to go on with; None for a new run.
        weights_are_given: some checkpoint will be read, not counting one that auto may find.
        report: what --finetune did with each tensor of the model, a line each; empty without it.

    Raises:
        UserError: a checkpoint cannot be read, or is of another model.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.checkpoint = self._frozen = self._tuned = None
        self.report = ""
        given = _given_checkpoints(args)
        self.weights_are_given = bool(given)
        if not args.finetune:
            return
        if "resume" in given:
            source = self.checkpoint = load_checkpoint(args.resume, args.trust_checkpoint)
        else:
            source = self._tuned = load_checkpoint(args.finetune, args.trust_checkpoint)
        option = "resume" if "resume" in given else "finetune"
        saved = _options_of(source, f"--{option} {given[option]}")
        self._encoding = saved.enc_rpe2d
        adopted = adopt_options(args, saved)
        if adopted:
            told = " ".join(f"--{name} {value!r}" for name, value in adopted.items())
            print_main(f"options of the model from {given[option]}: {told}")

    def open(self, output: OutputDir) -> None:
        """Read the checkpoint, if it is not read yet; --resume auto looks for it in `output`.

        Sets args.resume to what auto found, and args.num_classes and args.category_ids where the
        checkpoint decides them.
        """
        args = self.args
        if args.resume == "auto":
            args.resume, self.checkpoint = output.newest_checkpoint()
            if args.eval and not args.resume:
                raise UserError(f"--resume auto: there is no checkpoint in {args.output_dir}")
            print_main(f"resuming {args.resume}" if args.resume else "nothing to resume yet")
        elif args.resume and self.checkpoint is None:
            self.checkpoint = load_checkpoint(args.resume, args.trust_checkpoint)
        if args.resume:
            check_same_model(self.checkpoint, args)
        elif args.frozen_weights:
            self._frozen = load_checkpoint(args.frozen_weights, args.trust_checkpoint)
            check_same_model(self._frozen, args, "frozen_weights")

    def load_weights(self, model: nn.Module, names: dict[int, str]) -> None:
        """Fill the model, or its detector; a UserError if something does not fit.

        Training goes on with the weights it had; their average, if there is one, is used else.

        Args:
            names: of the data's classes, by label; those of the checkpoint may be others, which is
                said.
        """
        if self.checkpoint is not None:
            self._load(model, self.checkpoint, "resume", names, to_train_on=not self.args.eval)
        elif self._frozen is not None:
            self._load(model.detr, self._frozen, "frozen_weights", names)
        elif self._tuned is not None:
            self._transfer(model, names)
        self._frozen = self._tuned = None

    def _load(
        self,
        model: nn.Module,
        checkpoint: dict,
        option: str,
        names: dict[int, str],
        to_train_on: bool = False,
    ) -> None:
        given = f"--{option} {getattr(self.args, option)}"
        load_weights(model, checkpoint, given, to_train_on)
        _tell_of_other_classes(checkpoint, names, given)
        if not to_train_on:
            _tell_of_average(checkpoint, given)

    def _transfer(self, model: nn.Module, names: dict[int, str]) -> None:
        args, given = self.args, f"--finetune {self.args.finetune}"
        transfer = Transfer(
            weights_to_use(self._tuned),
            class_names(self._tuned, count_classes(self._tuned)),
            names,
            same_encoding=self._encoding == args.enc_rpe2d,
            given=given,
        )
        transfer.load(model)
        check_finite(model, given)
        _tell_of_average(self._tuned, given)
        print_main("\n".join(transfer.report()))
        self.report = "".join(f"{name}: {what}\n" for name, what in transfer.done.items())


def _options_of(checkpoint: Any, given: str) -> argparse.Namespace:
    """All options of a checkpoint's model; a UserError if it is none of a detector."""
    saved = saved_args(checkpoint, given)
    if saved is None:
        return infer_options(checkpoint["model"], given)[0]
    return with_defaults(saved, given)


def _tell_of_other_classes(checkpoint: dict, names: dict[int, str], given: str) -> None:
    there = checkpoint.get("classes") or {}
    others = [
        f"{label} is {describe(there[label])} there, {describe(name)} here"
        for label, name in names.items()
        if there.get(label, name) != name
    ]
    others += [
        f"{describe(name)} is not there" for label, name in names.items() if label not in there
    ]
    if there and others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        print_main(f"{given}: its classes are not the data's: {', '.join(others[:3])}{more}")


def _tell_of_average(checkpoint: dict, given: str) -> None:
    if has_average(checkpoint):
        print_main(f"{given}: its averaged weights are used")
