"""Options that every run has, whatever it learns; and the check of a checkpoint's options."""

import argparse
from pathlib import Path, PurePath
from typing import Any, NoReturn

from training.log import MAX_EPOCHS
from util.cli import OneLineParser, number, whole_number
from util.errors import UserError
from util.schema import MAX_INT, Check, InvalidValue, describe, optional

AMP = ("off", "bf16", "fp16")  # keys of training.amp.DTYPES, which needs PyTorch
TF32 = ("off", "convolutions", "on")
# Checkpoints of a run, in its --output_dir; those of epochs are a pattern.
LAST, OF_EPOCHS, BEST = "checkpoint.pth", "checkpoint[0-9]*.pth", "checkpoint_best.pth"


def add_device_option(parser: Any) -> None:
    """Add --device."""
    parser.add_argument(
        "--device", default="auto", help="auto (CUDA if there is one, else CPU), cpu or cuda"
    )


def add_trust_option(parser: Any) -> None:
    """Add --trust_checkpoint."""
    parser.add_argument(
        "--trust_checkpoint",
        action="store_true",
        help="read any kind of object from checkpoints, which can run code: only for files that "
        "you made",
    )


def add_checkpoint_argument(
    parser: OneLineParser,
    kind: str = "detector",
    before: str = "",
    required: bool = True,
    folders: str = "",
) -> None:
    """Add the checkpoint that a tool reads: its first argument, or --resume as of main.py.

    `parse_args` sets `checkpoint` to its path or address, and both options to None without one.

    Args:
        kind: of its model, for --help.
        before: name of the argument that follows it; with --resume, that is the first one.
        required: False for a tool that also works without.
        folders: what other folders than those of runs the tool takes in its place, for --help.
    """
    parser.add_argument(
        "checkpoint", nargs="?", metavar="CHECKPOINT",
        help=f"the {kind}'s: a file, an https address, or a run's folder, of which {LAST} is read"
        + f"; or {folders}" * bool(folders),
    )  # fmt: skip
    parser.add_argument("--resume", metavar="CHECKPOINT", help="the same, as main.py takes it")

    def choose(args: argparse.Namespace) -> None:
        if args.resume and args.checkpoint and before:
            _hand_on(parser, args, before)
        if args.resume and args.checkpoint:
            parser.error(f"{args.checkpoint} and --resume {args.resume}: give one checkpoint")
        source = args.checkpoint or args.resume
        if not source and required:
            parser.error("the checkpoint is missing: give it first, or as --resume CHECKPOINT")
        if source and Path(source).is_dir():
            if (Path(source) / LAST).is_file():
                source = str(Path(source) / LAST)
            elif not folders:
                parser.error(f"{source}: this folder has no {LAST}")
        args.checkpoint = args.resume = source

    def look(args: argparse.Namespace) -> None:
        if args.checkpoint and "://" not in args.checkpoint and not Path(args.checkpoint).exists():
            raise UserError(f"{args.checkpoint}: no such checkpoint file")

    parser.checks.append(choose)
    parser.file_checks.append(look)


def _hand_on(parser: OneLineParser, args: argparse.Namespace, before: str) -> None:
    """Make the first argument the one that follows a checkpoint, if it can be that."""
    (action,) = (action for action in parser._actions if action.dest == before)
    first, following = args.checkpoint, getattr(args, before)
    if action.nargs in ("*", "+"):
        if PurePath(first).suffix in (".pth", ".pt"):
            return
        following = [first, *following]
    elif following is None:
        following = action.type(first) if callable(action.type) else first
    else:
        return
    args.checkpoint = None
    setattr(args, before, following)


# fmt: off
def add_output_options(group: Any, automatic_amp: bool = False) -> None:
    """Add where a run writes to, and what it computes with.

    Args:
        automatic_amp: let --amp be "auto", its default then, which the task has to decide.
    """
    add = group.add_argument
    auto = ("auto",) * automatic_amp
    add("--output_dir", default="", help="where to write checkpoints and log; empty for nowhere")
    add("--tensorboard", action="store_true",
        help="write the numbers of each epoch for TensorBoard, too, to tensorboard/ there")
    add_device_option(group)
    add("--amp", default="auto" if auto else "off", choices=(*auto, *AMP),
        help="automatic mixed precision of the model: off is float32, bf16 and fp16 are faster"
        + "; auto is fp16 on CUDA, else off" * automatic_amp)
    add("--tf32", default="convolutions", choices=TF32,
        help="what a GPU computes with TF32's 10 bits instead of float32's 23, several times as "
        "fast; default as PyTorch's: %(default)s")


def add_memory_options(group: Any) -> None:
    """Add options that trade time for memory."""
    add = group.add_argument
    add("--gradient_checkpointing", action="store_true",
        help="compute activations again in the backward pass: less memory, a third slower")
    add("--release_memory", action="store_true",
        help="give freed memory back to the system, as is its default: needs less, is slower")


def add_start_options(group: Any, seed: int) -> None:
    """Add where a run starts, and how often it saves itself.

    Args:
        seed: the default.
    """
    add = group.add_argument
    add("--seed", default=seed, type=whole_number(-(2**62), 2**62),
        help="of all random choices; each process adds its rank")
    add("--resume", default="", metavar="PATH|URL|auto",
        help="checkpoint to continue or evaluate; auto is the newest whole one of --output_dir, "
        "and a new run where there is no checkpoint")
    add_trust_option(group)
    add("--checkpoint_every", default=10, type=number(0), metavar="MINUTES",
        help="write checkpoint.pth within epochs, too; 0 for only at their ends")


def add_epoch_options(group: Any) -> None:
    """Add which epochs are trained and evaluated."""
    add = group.add_argument
    add("--start_epoch", default=0, type=whole_number(0, MAX_EPOCHS),
        help="epoch to start at, counted from 0 as in log.txt")
    add("--eval", action="store_true", help="only evaluate")
    add("--eval_every", default=1, type=whole_number(1), help="epochs between evaluations")


def add_process_options(group: Any) -> None:
    """Add what launchers set."""
    add = group.add_argument
    add("--world_size", default=1, type=whole_number(1, 1_000_000), help="set by the launcher")
    add("--dist_url", default="env://", help="where processes meet")
# fmt: on


def finds_checkpoint(args: argparse.Namespace) -> bool:
    """Return whether --resume auto has a checkpoint to go on from.

    Files that say where a new run starts are not needed then.
    """
    if args.resume != "auto" or not args.output_dir:
        return False
    found = (Path(args.output_dir).glob(name) for name in (LAST, OF_EPOCHS, BEST))
    return any(path.is_file() for paths in found for path in paths)


def check_checkpoint(option: str, path: str) -> None:
    """Raise a UserError if a run's option names a checkpoint that does not exist."""
    if "://" in path or Path(path).is_file():
        return
    if (Path(path) / LAST).is_file():
        raise UserError(f"--{option} {path}: a folder; its checkpoint is {Path(path, LAST)}")
    if not Path(path).exists():
        raise UserError(f"--{option} {path}: no such file")


def checked_options(
    saved: argparse.Namespace,
    source: str,
    parser: argparse.ArgumentParser,
    others: dict[str, Check],
) -> argparse.Namespace:
    """Check a checkpoint's args by the rules of the command line; unknown names are kept.

    Args:
        source: the checkpoint, as the user named it.
        parser: of the command line.
        others: values in args that are no options, or are lists.

    Raises:
        UserError: an option has a value that the command line would refuse.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{source}: its options are not those of this version: {message}")

    defaults = vars(parser.parse_args([]))
    parser.error = refuse  # type: ignore[method-assign]
    values = {
        name: str(value) if isinstance(value, PurePath) else value
        for name, value in vars(saved).items()
        if isinstance(name, str)
    }
    typed = {}
    for name in values.keys() & defaults.keys() - others.keys():
        value, default = values[name], defaults[name]
        if isinstance(default, bool):
            if not isinstance(value, bool):
                refuse(f"{name} is {describe(value)}, not True or False")
        elif value is not None or default is not None:
            is_plain = isinstance(value, str | float | int) and not isinstance(value, bool)
            if not is_plain or (isinstance(value, int) and abs(value) > MAX_INT):
                refuse(f"{name} is {describe(value)}")
            typed[name] = value
    parsed = vars(parser.parse_args([f"--{name}={value}" for name, value in typed.items()]))
    for name, value in typed.items():
        if parsed[name] != value:
            refuse(f"{name} is {describe(value)}, of another type")
    try:
        for name, kind in others.items():
            optional(kind)(values.get(name), name)
    except InvalidValue as unfit:
        refuse(str(unfit))
    checked = argparse.Namespace()
    vars(checked).update(values)  # any name may be there, self too
    return checked
