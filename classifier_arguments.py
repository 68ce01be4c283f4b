"""Every option of classification/main.py; checkpoints keep their values as args.

Outside of the package `classification`, which imports PyTorch and timm.
"""

import argparse
from pathlib import Path
from typing import Any

from models.option_values import ATTENTION, RPE_FORMAT, rpe_argument
from training.log import MAX_EPOCHS
from training.start.options import (
    add_epoch_options,
    add_memory_options,
    add_output_options,
    add_process_options,
    add_start_options,
    check_checkpoint,
    finds_checkpoint,
)
from util.cli import number, whole_number
from util.errors import UserError


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


def check_files(args: argparse.Namespace) -> None:
    """Raise a UserError if data or checkpoints to read are missing; imports no PyTorch."""
    if args.data_set.startswith("INAT"):
        raise UserError(
            f"--data-set {args.data_set} is not read here: give folders train/CLASS and val/CLASS"
        )
    if not args.data_path:
        raise UserError("--data-path is missing: a folder with train/CLASS and val/CLASS")
    if not Path(args.data_path).is_dir():
        raise UserError(f"--data-path {args.data_path}: no such folder")
    if args.resume and args.resume != "auto":
        check_checkpoint("resume", args.resume)
    elif args.finetune and not finds_checkpoint(args):
        check_checkpoint("finetune", args.finetune)
    if args.distillation_type != "none" and args.teacher_path and not args.eval:
        check_checkpoint("teacher-path", args.teacher_path)
