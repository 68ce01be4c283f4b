"""Checks of the options of classification/main.py, on the command line and in checkpoints."""

import argparse
from typing import Any

import timm

from classifier_arguments import check_files, get_args_parser
from training.start.compile import check_compiler
from training.start.options import checked_options
from training.start.processes import check_run_options
from util.distributed import print_main
from util.errors import UserError
from util.schema import integer, list_of, optional, text
from util.schema import number as number_value

from .task import check_optimizer
from .zoo import MODELS, encoding_of

NUMBERS = list_of(number_value(), high=10)
# In args besides options of one value; given: see util.cli.options_given.
NOT_PLAIN = {
    "given": list_of(text(100), high=1000),
    "opt_betas": optional(NUMBERS),
    "lr_noise": optional(NUMBERS),
    "cutmix_minmax": optional(NUMBERS),
    "model_kwargs": optional(list_of(text(200), high=100)),
    "num_classes": optional(integer(1, 10**6)),
}
# Names that --model-kwargs cannot set, and why.
RESERVED = {
    "num_classes": "the data decide that, or --num-classes", "in_chans": "images have 3 channels",
}  # fmt: skip
# Options of the published command that change nothing here, and why.
WITHOUT_EFFECT = {
    "model_ema_force_cpu": "the averaged weights are on the device of the model",
    "cooldown_epochs": "the published command does not train these epochs either",
    "patience_epochs": "no schedule waits for a better result",
    "pin_mem": "memory is pinned where there is a GPU",
    "dist_eval": "each image is evaluated once, on one process",
    "resplit": "images are erased one by one",
    "inat_category": "data are folders or archives of classes",
}


def checked_args(saved: argparse.Namespace, source: str) -> argparse.Namespace:
    """Check a checkpoint's args; see `training.start.options.checked_options`."""
    return checked_options(saved, source, get_args_parser(), NOT_PLAIN)


def check_options(args: argparse.Namespace) -> None:
    """Check all options before anything takes long, and name those that change nothing.

    Raises:
        UserError: options do not fit each other or the files on disk.
    """
    check_files(args)
    if args.eval and args.eval_ema and not args.resume:
        raise UserError("--eval-ema evaluates the averaged weights of a run: it needs --resume")
    check_run_options(args)
    if args.compile:
        check_compiler()
    if is_mixed(args) and args.batch_size % 2:
        raise UserError(
            f"--batch-size {args.batch_size} must be even, mixup mixes pairs; --mixup 0 --cutmix 0 "
            "mixes none"
        )
    if args.cutmix_minmax and not (
        len(args.cutmix_minmax) == 2 and 0 <= args.cutmix_minmax[0] < args.cutmix_minmax[1] <= 1
    ):
        raise UserError("--cutmix-minmax takes two shares of an image's height, such as 0.2 0.8")
    without_effect = WITHOUT_EFFECT | check_optimizer(args)
    if args.eval and args.finetune:
        raise UserError("--finetune starts a training; --eval takes its checkpoint by --resume")
    _check_model(args)
    _check_teacher(args)
    for name in args.given or ():
        if name in without_effect:
            print_main(f"--{name.replace('_', '-')} changes nothing: {without_effect[name]}")


def is_mixed(args: argparse.Namespace) -> bool:
    """Say whether training images are mixed in pairs."""
    return args.mixup > 0 or args.cutmix > 0 or bool(args.cutmix_minmax)


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return --model-kwargs as values by name.

    Raises:
        UserError: one is not name=value, or its value is no number, true, false or word.
    """
    options = {}
    for pair in args.model_kwargs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--model-kwargs {pair}: not of the form name=value")
        if name in RESERVED:
            raise UserError(f"--model-kwargs {pair}: {RESERVED[name]}")
        options[name] = _value(value)
    return options


def _value(word: str) -> Any:
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _check_model(args: argparse.Namespace) -> None:
    model_options(args)
    if not timm.is_model(args.model):
        raise UserError(f"--model {args.model}: no such model; some are {', '.join(MODELS)}")
    if args.model not in MODELS:
        if args.enc_rpe2d:
            raise UserError(f"--enc_rpe2d: {args.model} takes none; {', '.join(MODELS)} do")
        return
    try:
        encoding_of(args.model, None, args.enc_rpe2d)
    except ValueError as error:
        raise UserError(f"--enc_rpe2d {args.enc_rpe2d}: {error}") from error
    if args.pretrained and not MODELS[args.model].file and not (args.resume or args.finetune):
        raise UserError(f"--pretrained: no weights were published for {args.model}")


def _check_teacher(args: argparse.Namespace) -> None:
    if args.distillation_type == "none" or args.eval:
        return
    if "distilled" not in args.model:
        raise UserError(
            f"--distillation-type {args.distillation_type} needs a model with a distillation "
            "token, such as deit_tiny_distilled_patch16_224"
        )
    if not args.teacher_path:
        raise UserError(
            f"--distillation-type {args.distillation_type} needs --teacher-path, the weights of "
            f"--teacher-model {args.teacher_model}"
        )
    if args.finetune and not args.finetune_drop:
        raise UserError("--finetune with a teacher needs --finetune-drop: training mode")
    if not timm.is_model(args.teacher_model):
        raise UserError(f"--teacher-model {args.teacher_model}: timm has no such model")
