"""Convert a detector between this project's checkpoints and Hugging Face's folders.

CHECKPOINT and TARGET decide what is done:

  folder -> file.pth   a DetrForObjectDetection, as save_pretrained writes it (config.json and
                       model.safetensors), becomes a checkpoint
  file.pth -> folder   a detector without relative positions becomes such a folder, which
                       from_pretrained reads
  file.pth -> file.pth weights alone, such as DETR's own model files, become a checkpoint that names
                       the options of its model, as all other tools expect

Weights are copied bit by bit, except for the counters of trained batch norm, which transformers
freezes. This needs safetensors, but not transformers.

examples:
  python tools/convert.py detr-resnet-50 checkpoint.pth
  python tools/convert.py output/checkpoint.pth my-detr
  python tools/convert.py detr-r50-dc5-f0fb7ef5.pth checkpoint.pth --dilation
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from arguments import add_trust_option
from models.option_values import encoding_argument
from training.start.options import add_checkpoint_argument
from util.cli import OneLineParser, answer_first, run_command, whole_number, with_options


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="convert.py", description=__doc__)
    add = parser.add_argument
    add_checkpoint_argument(parser, before="target", folders="a folder of Hugging Face")
    add("target", metavar="TARGET", help="a file that ends in .pth or .pt, or a folder")
    add(
        "--timm",
        action="store_true",
        help="use timm's backbone in the folder, as DETR's own folders do; by default it is "
        "transformers' own ResNet where that computes the same, so that timm is not needed",
    )
    add("--force", action="store_true", help="overwrite existing files")
    group = parser.add_argument_group("options that a checkpoint of weights alone may not tell")
    add = group.add_argument
    add("--nheads", type=whole_number(1), help="attention heads; 8 if the checkpoint does not tell")
    add("--dilation", action="store_true", help="the backbone is dilated (DC5)")
    add(
        "--enc_rpe2d",
        default="",
        type=encoding_argument,
        metavar="RPE",
        help="relative position encoding of the encoder",
    )
    add_trust_option(parser)
    return parser  # fmt: skip


if __name__ == "__main__":
    answer_first(get_args_parser)

import torch

from checkpoints.infer_options import infer_options, summary
from detector import Detector, build_detector
from tools.hf_detr.config import (
    check_kind,
    check_same_sizes,
    class_names,
    config_of,
    fits_native,
    options_from,
    preprocessor_of,
    unsupported_reason,
)
from tools.hf_detr.folder import (
    CONFIG,
    PREPROCESSOR,
    check_folder,
    import_safetensors,
    read_json,
    read_tensors,
    write_folder,
)
from tools.hf_detr.names import from_hugging_face, to_hugging_face
from training.ema import weights_to_use
from util import VERSION
from util.checkpoint import load_checkpoint, save_checkpoint
from util.errors import UserError
from util.files import check_no_overwrite, report_write_errors

CHECKPOINT_SUFFIXES = (".pth", ".pt")


def read_hugging_face(folder: Path) -> dict:
    """Return the content of a checkpoint of the detector in a Hugging Face folder."""
    source = str(folder / CONFIG)
    config = read_json(folder / CONFIG)
    check_kind(config, source)
    preprocessor = {}
    if (folder / PREPROCESSOR).exists():
        preprocessor = read_json(folder / PREPROCESSOR)
    state, native = from_hugging_face(read_tensors(folder), str(folder))
    options = options_from(config, preprocessor, native, source)
    args, _ = infer_options(state, str(folder), **options)
    check_same_sizes(config, args, native, source)
    return checkpoint_content(state, args, class_names(config))


def checkpoint_content(state: dict, args: argparse.Namespace, names: dict[int, str]) -> dict:
    """Return what a checkpoint holds if no training is going on."""
    return {"model": state, "args": args, "classes": names, "version": VERSION}


def write_checkpoint(state: dict, detector: Detector, target: Path) -> None:
    args = with_options(detector.args, resume="", eval=False)  # as if main.py had trained it
    with report_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(checkpoint_content(state, args, detector.names), target)


def write_hugging_face(
    state: dict, detector: Detector, source: str, target: Path, timm: bool
) -> None:
    """Write a folder as save_pretrained does, with timm's backbone if that is wanted or needed.

    Raises:
        UserError: transformers cannot compute what the detector does.
    """
    native = fits_native(detector.args) and not timm
    reason = unsupported_reason(detector.args, native)
    if reason is not None:
        raise UserError(f"{source}: cannot become Hugging Face's DetrForObjectDetection: {reason}")
    config = config_of(detector.args, state, detector.names, native)
    preprocessor = preprocessor_of(detector.args)
    write_folder(target, config, preprocessor, to_hugging_face(state, native))


def main(argv: list[str] | None = None) -> None:
    args = get_args_parser().parse_args(argv)
    source, target = args.checkpoint, Path(args.target)
    from_folder = Path(source).is_dir()
    to_checkpoint = target.suffix in CHECKPOINT_SUFFIXES
    options = {"dilation": args.dilation, "nheads": args.nheads, "enc_rpe2d": args.enc_rpe2d}
    options = {name: value for name, value in options.items() if value}
    if from_folder and not to_checkpoint:
        raise UserError(f"{target}: a folder becomes a checkpoint; give a TARGET that ends in .pth")
    if from_folder and options:
        raise UserError(f"--{next(iter(options))} is for checkpoints; {source} says it itself")
    if to_checkpoint:
        check_no_overwrite(target, args.force, "TARGET")
    else:
        import_safetensors()
        check_folder(target, args.force, "TARGET")

    if from_folder:
        checkpoint = read_hugging_face(Path(source))
    else:
        checkpoint = load_checkpoint(source, args.trust_checkpoint)
    # Building the detector shows whether the weights are complete.
    detector = build_detector(checkpoint, source, torch.device("cpu"), **options)
    state = weights_to_use(checkpoint)
    if to_checkpoint:
        write_checkpoint(state, detector, target)
    else:
        write_hugging_face(state, detector, source, target, args.timm)
    print(f"{target}: {summary(detector.args)}, image_size {detector.args.image_size}")


if __name__ == "__main__":
    run_command(main)
