"""Convert a detector between this project's checkpoint and Hugging Face's folder.

SOURCE and TARGET say what is done:

  folder -> file.pth   a DetrForObjectDetection, as save_pretrained writes it (config.json and
                       model.safetensors), becomes a checkpoint
  file.pth -> folder   a detector without relative positions becomes such a folder, which
                       from_pretrained reads
  file.pth -> file.pth weights alone, as DETR's own model files, become a checkpoint that says what
                       model they belong to, for all other tools

Weights are copied bit by bit, all but the counters of trained batch norm, which is frozen there.
transformers is not needed for this, safetensors is.

examples:
  python tools/convert.py detr-resnet-50 checkpoint.pth
  python tools/convert.py output/checkpoint.pth my-detr
  python tools/convert.py detr-r50-dc5-f0fb7ef5.pth checkpoint.pth --dilation
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from arguments import add_trust_option
from checkpoints.infer_options import infer_options, summary
from detector import Detector, build_detector
from models.rpe_attention.rpe_string import rpe_argument
from tools.hf_detr.config import (
    check_kind,
    check_same_sizes,
    class_names,
    config_of,
    fits_native,
    options_from,
    preprocessor_of,
    why_not,
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
from util.cli import OneLineParser, run_command, whole_number
from util.errors import UserError
from util.files import check_no_overwrite, report_write_errors

CHECKPOINT_SUFFIXES = (".pth", ".pt")
CPU = torch.device("cpu")


def read_hugging_face(folder: Path) -> dict:
    """A checkpoint's content, of the detector in a folder of Hugging Face's."""
    given = str(folder / CONFIG)
    config = read_json(folder / CONFIG)
    check_kind(config, given)
    preprocessor = {}
    if (folder / PREPROCESSOR).exists():
        preprocessor = read_json(folder / PREPROCESSOR)
    state, native = from_hugging_face(read_tensors(folder), str(folder))
    options = options_from(config, preprocessor, native, given)
    args, _ = infer_options(state, str(folder), **options)
    check_same_sizes(config, args, native, given)
    return content(state, args, class_names(config))


def content(state: dict, args: argparse.Namespace, names: dict[int, str]) -> dict:
    """What a checkpoint holds of a detector that is not being trained."""
    return {"model": state, "args": args, "classes": names, "version": VERSION}


def save(checkpoint: dict, detector: Detector, target: Path) -> None:
    args = detector.args
    args.resume, args.eval = "", False  # as if main.py had trained it
    with report_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(content(weights_to_use(checkpoint), args, detector.names), target)


def convert(args: argparse.Namespace) -> None:
    source, target = args.source, Path(args.target)
    to_checkpoint = target.suffix in CHECKPOINT_SUFFIXES
    known = {"dilation": args.dilation, "nheads": args.nheads, "enc_rpe2d": args.enc_rpe2d}
    known = {name: value for name, value in known.items() if value}
    from_folder = Path(source).is_dir()
    if from_folder and not to_checkpoint:
        raise UserError(f"{target}: a folder becomes a checkpoint; give a TARGET that ends in .pth")
    if from_folder and known:
        raise UserError(f"--{next(iter(known))} is for checkpoints; {source} says it itself")
    if to_checkpoint:
        check_no_overwrite(target, args.force, "TARGET")
    else:
        import_safetensors()
        check_folder(target, args.force, "TARGET")

    if from_folder:
        checkpoint = read_hugging_face(Path(source))
    else:
        checkpoint = load_checkpoint(source, args.trust_checkpoint)
    detector = build_detector(checkpoint, source, CPU, **known)  # tells whether it is whole
    if to_checkpoint:
        save(checkpoint, detector, target)
    else:
        write_hugging_face(weights_to_use(checkpoint), detector, source, target, args.timm)
    print(f"{target}: {summary(detector.args)}, image_size {detector.args.image_size}")


def write_hugging_face(
    state: dict, detector: Detector, source: str, target: Path, timm: bool
) -> None:
    """Write a folder as save_pretrained does, its backbone timm's if that is asked for or needed.

    Raises:
        UserError: transformers cannot compute what the detector does.
    """
    native = fits_native(detector.args) and not timm
    reason = why_not(detector.args, native)
    if reason is not None:
        raise UserError(f"{source}: Hugging Face's DetrForObjectDetection cannot be it: {reason}")
    config = config_of(detector.args, state, detector.names, native)
    preprocessor = preprocessor_of(detector.args)
    write_folder(target, config, preprocessor, to_hugging_face(state, native))


def get_args_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="convert.py", description=__doc__)
    add = parser.add_argument
    add(
        "source", metavar="SOURCE", help="a folder of Hugging Face's, or a checkpoint's path or URL"
    )
    add("target", metavar="TARGET", help="a file that ends in .pth or .pt, or else a folder")
    add(
        "--timm",
        action="store_true",
        help="write a folder whose backbone is timm's, as DETR's own folders; otherwise it is "
        "transformers' own ResNet where that can compute it, so that timm is not needed",
    )
    add("--force", action="store_true", help="write over what is there")
    group = parser.add_argument_group("what a checkpoint of weights alone may not tell")
    add = group.add_argument
    add("--nheads", type=whole_number(1), help="attention heads; 8 if nothing tells")
    add("--dilation", action="store_true", help="the backbone is dilated (DC5)")
    add("--enc_rpe2d", default="", type=rpe_argument, metavar="RPE", help="the relative positions")
    add_trust_option(parser)
    return parser  # fmt: skip


def main() -> None:
    convert(get_args_parser().parse_args())


if __name__ == "__main__":
    run_command(main)
