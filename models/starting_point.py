"""Where the weights of a run come from."""

import argparse
from pathlib import Path

from torch import nn

from util.checkpoint import load_checkpoint
from util.dist import print_main
from util.ema import has_average
from util.errors import UserError
from util.output_dir import OutputDir

from .compatibility import check_same_model, load_weights


def given_checkpoints(args: argparse.Namespace) -> dict[str, str]:
    """The checkpoints that will be read, by option; none that --resume auto may find.

    Raises:
        UserError: one of them is not there.
    """
    given = {"resume": args.resume, "frozen_weights": args.frozen_weights}
    if args.resume == "auto":
        del given["resume"]
    elif args.resume:
        del given["frozen_weights"]  # it has all that another would give
    given = {option: path for option, path in given.items() if path}
    for option, path in given.items():
        if "://" not in path and not Path(path).is_file():
            raise UserError(f"--{option} {path}: no such file")
    return given


class StartingPoint:
    """A checkpoint to go on with, or else a detector to freeze, or neither.

    Sets args.resume to the file that --resume auto found.

    Attributes:
        checkpoint: what to go on with; None for a new run.

    Raises:
        UserError: a checkpoint cannot be read, or is of another model.
    """

    def __init__(self, args: argparse.Namespace, output: OutputDir):
        self.args = args
        self.checkpoint = self._frozen = None
        if args.resume == "auto":
            args.resume, self.checkpoint = output.newest_checkpoint()
            if args.eval and not args.resume:
                raise UserError(f"--resume auto: there is no checkpoint in {args.output_dir}")
            print_main(f"resuming {args.resume}" if args.resume else "nothing to resume yet")
        elif args.resume:
            self.checkpoint = load_checkpoint(args.resume, args.trust_checkpoint)
        if args.resume:
            check_same_model(self.checkpoint, args)
        elif args.frozen_weights:
            self._frozen = load_checkpoint(args.frozen_weights, args.trust_checkpoint)
            check_same_model(self._frozen, args, "frozen_weights")

    def load_weights(self, model: nn.Module) -> None:
        """Fill the model, or its detector; a UserError if something does not fit.

        Training goes on with the weights it had; their average, if there is one, is used else.
        """
        if self.checkpoint is not None:
            self._load(model, self.checkpoint, "resume", to_train_on=not self.args.eval)
        elif self._frozen is not None:
            self._load(model.detr, self._frozen, "frozen_weights")
        self._frozen = None

    def _load(
        self, model: nn.Module, checkpoint: dict, option: str, to_train_on: bool = False
    ) -> None:
        given = f"--{option} {getattr(self.args, option)}"
        load_weights(model, checkpoint, given, to_train_on)
        if has_average(checkpoint) and not to_train_on:
            print_main(f"{given}: its averaged weights are used")
