"""Print what a model costs: parameters and multiply-accumulates by part, time and memory.

The model is a detector of main.py's options, that of a checkpoint, or with --model a classifier.
Multiply-accumulates are those of products and convolutions in a forward pass of the batch, by the
formula of attention whatever computes it. Times are medians of passes, memory is the most that was
used; each size is measured in a process of its own, with random weights and images.

examples:
  python tools/cost.py --enc_rpe2d rpe-2.0-product-ctx-1-k --backbone resnet50
  python tools/cost.py output/checkpoint.pth --size 480 640 --size 800 1066 --train
  python tools/cost.py --model deit_small_patch16_224_ctx_product_50_shared_k --no_timing
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from arguments import add_detector_options, add_model_options
from training.start.options import AMP, add_checkpoint_argument
from util.cli import (
    OneLineParser,
    answer_first,
    options_given,
    run_command,
    whole_number,
    with_options,
)

SMALLEST, LARGEST = 16, 10_000  # sides of images in pixels


class _AddSize(argparse.Action):
    """Adds a size to those that were given before; "append" does not work with `options_given`."""

    def __call__(self, parser, namespace, values, option_string=None):
        """See argparse.Action."""
        before = getattr(namespace, self.dest)
        sizes = [*(before if isinstance(before, list) else []), tuple(values)]
        setattr(namespace, self.dest, sizes)


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="cost.py", description=__doc__)
    add = parser.add_argument
    add("--model", default="", metavar="NAME", help="a classifier; it takes --enc_rpe2d, too")
    add_checkpoint_argument(parser, required=False)
    add(
        "--size",
        nargs=2,
        action=_AddSize,
        type=whole_number(SMALLEST, LARGEST),
        metavar=("H", "W"),
        help="height and width of the images, after resizing; may be given "
        "several times; by default 800 1066, or what the checkpoint or classifier is for",
    )
    add("--batch_size", type=whole_number(1, 100_000), default=1, help="images of a pass")
    add("--no_timing", action="store_true", help="count only: takes no time and no memory")
    add("--passes", type=whole_number(1, 10_000), default=10, help="passes that are timed")
    add(
        "--train",
        action="store_true",
        help="time forward and backward passes in training mode, too; the loss is the outputs' sum",
    )
    add("--amp", default="off", choices=AMP, help="mixed precision of timed passes")
    add("--output", type=Path, metavar="FILE.json", help="write all numbers to this file, too")
    add("--force", action="store_true", help="overwrite an existing file")
    add_detector_options(parser)
    add_model_options(parser)
    add("--masks", action="store_true", help="with a mask head")
    add(
        "--gradient_checkpointing",
        action="store_true",
        help="compute activations again in the backward pass",
    )
    return parser  # fmt: skip


if __name__ == "__main__":
    answer_first(get_args_parser)

import torch

from argument_checks import check_attention, check_model_options
from arguments import get_args_parser as options_of_main
from detector import build_detector
from tools.model_cost.counts import count_parameters, count_products
from tools.model_cost.measuring import Request, machine, measure_apart
from tools.model_cost.report import Report, SizeCost
from tools.model_cost.subjects import (
    DetectorSubject,
    Subject,
    build_without_memory,
    classifier_subject,
)
from util.checkpoint import load_checkpoint
from util.distributed import pick_device
from util.errors import UserError
from util.files import atomic_write, check_output_file

OF_CLASSIFIERS = ("enc_rpe2d", "attention", "num_classes")  # options that --model takes, too


def detector_options() -> list[str]:
    """Return the names of the options that describe a detector."""
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    return [*vars(parser.parse_args([])), "masks", "gradient_checkpointing"]


def choose_subject(options: argparse.Namespace, given: list[str]) -> Subject:
    """Return the model that a command line asks for.

    Args:
        given: names of the options on the command line.

    Raises:
        UserError: options do not fit each other, or there is no such model.
    """
    chosen = {name: getattr(options, name) for name in detector_options() if name in given}
    if options.model:
        if options.resume:
            raise UserError("--model is a classifier, a checkpoint is of a detector: give one")
        other = next((name for name in chosen if name not in OF_CLASSIFIERS), None)
        if other:
            raise UserError(f"--{other} is of detectors: --model takes no such option")
        return classifier_subject(options.model, chosen)
    if options.resume:
        return _of_checkpoint(options, chosen)
    args = with_options(options_of_main().parse_args([]), **chosen)
    check_model_options(args, weights_are_given=True)
    return DetectorSubject(args)


def _of_checkpoint(options: argparse.Namespace, chosen: dict[str, Any]) -> DetectorSubject:
    """Return the detector of a checkpoint; its weights are loaded once, to see whether they fit."""
    of_passes = {
        name: chosen.pop(name) for name in ("attention", "gradient_checkpointing") if name in chosen
    }
    checkpoint = load_checkpoint(options.resume, options.trust_checkpoint)
    detector = build_detector(checkpoint, options.resume, torch.device("cpu"), **chosen)
    return DetectorSubject(with_options(detector.args, **of_passes))


def main() -> None:
    parser = get_args_parser()
    options = parser.parse_args()
    if options.output is not None:  # before anything takes long
        check_output_file(options.output, options.force, "--output")
    device = pick_device(options.device)
    subject = choose_subject(options, options_given(parser))
    sizes = list(dict.fromkeys(options.size or [subject.default_size]))
    for size in sizes:
        subject.check_size(size)
    if isinstance(subject, DetectorSubject) and not options.no_timing:
        check_attention(with_options(subject.args, amp=options.amp, eval=not options.train), device)

    model = build_without_memory(subject)
    parameters = count_parameters(model, subject.parts)
    trained = count_parameters(model, subject.parts, trained=True)
    costs = []
    for size in sizes:
        images = torch.zeros(options.batch_size, 3, *size, device="meta")
        costs.append(SizeCost(size, count_products(model, subject.parts, images)))
    if not options.no_timing:
        costs = [
            SizeCost(cost.size, cost.products, measure_apart(Request(
                subject, cost.size, options.batch_size, str(device), options.amp, options.passes,
                torch.get_num_threads(), options.train,
            )))
            for cost in costs
        ]  # fmt: skip
    report = Report(
        str(subject), options.batch_size, subject.parts, parameters, trained, costs, machine(device)
    )
    print("\n".join(report.lines()))
    if options.output is not None:
        with atomic_write(options.output) as file:
            file.write(json.dumps(report.content(), indent=1).encode() + b"\n")
        print(f"written to {options.output}")


if __name__ == "__main__":
    run_command(main)
