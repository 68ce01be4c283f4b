"""Where the weights of a run come from."""

import argparse
from pathlib import Path

from torch import nn

from util.checkpoint import load_checkpoint
from util.dist import print_main
from util.errors import UserError
from util.output_dir import OutputDir

from .class_names import class_names
from .compatibility import (
    check_finite,
    check_same_model,
    count_classes,
    load_weights,
    saved_args,
)
from .finetune import Transfer, adopt_options

REPORT = "finetune.txt"


def given_checkpoints(args: argparse.Namespace) -> dict[str, str]:
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

    Raises:
        UserError: a checkpoint cannot be read, or is of another model.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.checkpoint = self._frozen = self._tuned = None
        given = given_checkpoints(args)
        if not args.finetune:
            return
        if "resume" in given:
            source = self.checkpoint = load_checkpoint(args.resume, args.trust_checkpoint)
        else:
            source = self._tuned = load_checkpoint(args.finetune, args.trust_checkpoint)
        option = "resume" if "resume" in given else "finetune"
        saved = saved_args(source, f"--{option} {given[option]}")
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

    def load_weights(self, model: nn.Module, names: dict[int, str], output: OutputDir) -> None:
        """Fill the model, or its detector; a UserError if something does not fit.

        Args:
            names: of the classes to learn, by label.
            output: where a report of --finetune goes.
        """
        if self.checkpoint is not None:
            load_weights(model, self.checkpoint, f"--resume {self.args.resume}")
        elif self._frozen is not None:
            load_weights(model.detr, self._frozen, f"--frozen_weights {self.args.frozen_weights}")
        elif self._tuned is not None:
            self._transfer(model, names, output)
        self._frozen = self._tuned = None

    def _transfer(self, model: nn.Module, names: dict[int, str], output: OutputDir) -> None:
        args, given = self.args, f"--finetune {self.args.finetune}"
        saved = saved_args(self._tuned, given)
        transfer = Transfer(
            self._tuned["model"],
            class_names(self._tuned, count_classes(self._tuned)),
            names,
            same_encoding=saved.get("enc_rpe2d", "") == args.enc_rpe2d,
            given=given,
        )
        transfer.load(model)
        check_finite(model, given)
        print_main("\n".join(transfer.report()))
        output.save_text("\n".join([f"{n}: {what}" for n, what in transfer.done.items()]), REPORT)
