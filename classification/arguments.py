"""Every option of classification/main.py; checkpoints keep their values as args."""

import argparse
from pathlib import Path
from typing import Any

import timm

from models.rpe_attention import ATTENTION
from models.rpe_attention.enc_rpe2d import RPE_FORMAT, rpe_argument
from training.log import MAX_EPOCHS
from training.start.compile import check_compiler
from training.start.options import (
    add_epoch_options,
    add_memory_options,
    add_output_options,
    add_process_options,
    add_start_options,
    checked_options,
)
from training.start.processes import check_run_options
from util.cli import number, whole_number
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
    check_run_options(args)
    if args.compile:
        check_compiler()
    if args.data_set.startswith("INAT"):
        raise UserError(
            f"--data-set {args.data_set} is not read here: give folders train/CLASS and val/CLASS"
        )
    if not args.data_path:
        raise UserError("--data-path is missing: a folder with train/CLASS and val/CLASS")
    if not Path(args.data_path).is_dir():
        raise UserError(f"--data-path {args.data_path}: no such folder")
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
    if args.resume and args.resume != "auto":
        _check_file("resume", args.resume)
    elif args.finetune:
        _check_file("finetune", args.finetune)
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


def _check_file(option: str, path: str) -> None:
    if "://" not in path and not Path(path).exists():
        raise UserError(f"--{option} {path}: no such file")


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
    _check_file("teacher-path", args.teacher_path)
    if not timm.is_model(args.teacher_model):
        raise UserError(f"--teacher-model {args.teacher_model}: timm has no such model")


# fmt: off
def get_args_parser() -> argparse.ArgumentParser:
    """Return a parser of all options, for use as a parent of another one."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.set_defaults(given=None)

    def adder(title: str):
        group = parser.add_argument_group(title)

        def add(name: str, **options: Any) -> None:
            # The published options are written in both ways.
            words = name.removeprefix("--").replace("_", "-")
            names = (name, f"--{words}", f"--{words.replace('-', '_')}")
            group.add_argument(*dict.fromkeys(names), **options)

        return add, group

    share, positive = number(0, 1), number(0)
    add, _ = adder("optimisation")
    add("--batch-size", default=64, type=whole_number(1, 100_000),
        help="images per process and step")
    add("--epochs", default=300, type=whole_number(1, MAX_EPOCHS), help="epochs to train in all")
    add("--accumulate", default=1, type=whole_number(1, 100_000), metavar="N",
        help="average the gradients of N batches for each step")
    add("--opt", default="adamw", metavar="NAME", help="an optimizer's name in timm")
    add("--opt-eps", default=1e-8, type=number(0, 1), help="its epsilon")
    add("--opt-betas", default=None, type=share, nargs="+", help="its betas; its own by default")
    add("--clip-grad", default=None, type=positive, help="largest gradient norm; any if not given")
    add("--momentum", default=0.9, type=positive, help="of SGD and its kind")
    add("--weight-decay", default=0.05, type=positive,
        help="none of biases, norms, position embeddings and the class token")
    add("--sched", default="cosine", choices=("cosine", "tanh", "step", "poly"), help="schedule")
    add("--lr", default=5e-4, type=positive,
        help="learning rate for 512 images a step, in proportion for others")
    add("--lr-noise", default=None, type=share, nargs="+",
        help="where noise on the rate begins and ends, as shares of all epochs")
    add("--lr-noise-pct", default=0.67, type=positive, help="its limit")
    add("--lr-noise-std", default=1.0, type=positive, help="its standard deviation")
    add("--warmup-lr", default=1e-6, type=positive, help="first learning rate")
    add("--min-lr", default=1e-5, type=positive, help="last learning rate")
    add("--decay-epochs", default=30, type=number(1e-9), help="between drops, with --sched step")
    add("--decay-rate", default=0.1, type=positive, help="of a drop; power, with --sched poly")
    add("--warmup-epochs", default=5, type=whole_number(0, MAX_EPOCHS), help="of rising rates")
    add("--cooldown-epochs", default=10, type=whole_number(0, MAX_EPOCHS), help="no effect")
    add("--patience-epochs", default=10, type=whole_number(0, MAX_EPOCHS), help="no effect")
    add("--model-ema", action="store_true", default=True, help="keep averaged weights, model_ema")
    add("--no-model-ema", action="store_false", dest="model_ema", help="keep none")
    add("--model-ema-decay", default=0.99996, type=number(0, 0.9999999), help="of the average")
    add("--model-ema-force-cpu", action="store_true", help="no effect")
    add("--eval-ema", action="store_true",
        help="evaluate the averaged weights; the published numbers are of the others")
    add("--early-stop", default=0, type=whole_number(0), metavar="N",
        help="end after N evaluations in a row without a better top-1 accuracy; 0 for never")

    add, _ = adder("model")
    add("--model", default="deit_base_patch16_224", metavar="NAME", help="a model's name in timm")
    add("--pretrained", action="store_true", help="start from, or evaluate, its published weights")
    add("--model-kwargs", default=None, nargs="+", metavar="NAME=VALUE",
        help="further options of the model, such as depth=6")
    add("--num-classes", default=None, type=whole_number(1, 10**6),
        help="classes of the head; those of the data if not given")
    add("--enc_rpe2d", default="", type=rpe_argument, metavar="RPE",
        help=f"relative position encoding of a plain model: {RPE_FORMAT}; or none")
    add("--attention", default="auto", choices=ATTENTION, help="how attention is computed")
    add("--input-size", default=224, type=whole_number(1, 10_000),
        help="height and width of images")
    add("--drop", default=0.0, type=number(0, 0.999), help="dropout")
    add("--drop-path", default=0.1, type=number(0, 0.999), help="stochastic depth")
    add("--finetune", default="", metavar="PATH|URL",
        help="checkpoint to start a new run from; heads of other classes are left out")
    add("--finetune-drop", action="store_true",
        help="with --finetune, train with dropout and stochastic depth; the published command does "
        "not")
    add("--distillation-type", default="none", choices=("none", "soft", "hard"), help="how to "
        "learn from a teacher")
    add("--distillation-alpha", default=0.5, type=share, help="weight of its loss")
    add("--distillation-tau", default=1.0, type=number(1e-6), help="temperature, with soft")
    add("--teacher-model", default="regnety_160", metavar="NAME", help="a model's name in timm")
    add("--teacher-path", default="", metavar="PATH|URL", help="its weights")

    add, _ = adder("augmentation")
    add("--color-jitter", default=0.4, type=positive, help="no effect while there is --aa")
    add("--aa", default="rand-m9-mstd0.5-inc1", help="AutoAugment or RandAugment, "
        "as timm names them; none for none")
    add("--smoothing", default=0.1, type=number(0, 0.999), help="of labels")
    add("--train-interpolation", default="bicubic", choices=("random", "bilinear", "bicubic"),
        help="of training images")
    add("--repeated-aug", action="store_true", default=True,
        help="each image three times in an epoch, which has a third of the images")
    add("--no-repeated-aug", action="store_false", dest="repeated_aug",
        help="each image once in an epoch")
    add("--reprob", default=0.25, type=share, help="share of images with erased pixels")
    add("--remode", default="pixel", choices=("const", "rand", "pixel"), help="what is put there")
    add("--recount", default=1, type=whole_number(1, 100), help="erased boxes of an image")
    add("--resplit", action="store_true", help="no effect")
    add("--mixup", default=0.8, type=positive, help="alpha of mixup; 0 for none")
    add("--cutmix", default=1.0, type=positive, help="alpha of cutmix; 0 for none")
    add("--cutmix-minmax", default=None, type=share, nargs="+", help="sizes of its boxes")
    add("--mixup-prob", default=1.0, type=share, help="share of batches that are mixed")
    add("--mixup-switch-prob", default=0.5, type=share, help="share of cutmix among these")
    add("--mixup-mode", default="batch", choices=("batch", "pair", "elem"),
        help="what shares a mix")

    add, _ = adder("data")
    add("--data-path", default=None, metavar="DIR", help="folder with train/CLASS and val/CLASS")
    add("--data-set", default="IMNET", choices=("IMNET", "CIFAR", "INAT", "INAT19"),
        help="folders of classes, or CIFAR-100")
    add("--inat-category", default="name", help="no effect")
    add("--load-tar", action="store_true", help="read train.tar and val.tar instead of folders")
    add("--num_workers", default=10, type=whole_number(0, 1000), help="loader processes; 0: none")
    add("--pin-mem", action="store_true", default=True, help="no effect")
    add("--no-pin-mem", action="store_false", dest="pin_mem", help="no effect")
    add("--dist-eval", action="store_true", default=True, help="no effect")

    _, group = adder("run")
    add_output_options(group, automatic_amp=True)
    group.add_argument("--compile", action="store_true", help="torch.compile the model, which "
        "takes a minute at the start")
    add_memory_options(group)
    add_start_options(group, seed=0)
    add_epoch_options(group)
    add_process_options(group)
    return parser
# fmt: on
