"""Take a trained detector elsewhere: write it as ONNX, or in PyTorch's own format.

Batch, height and width of images are open, down to 33 pixels (17 with --dilation). Inputs: images
(B, 3, H, W) float32, RGB, normalised with ImageNet's mean and deviation (--normalize does that
inside), and with --mask_input mask (B, H, W) bool, True on padding. Outputs: pred_logits (B, Q,
classes + 1), the last one for no object; pred_boxes (B, Q, 4), centre, width and height in [0, 1]
of the unpadded image; with a mask head pred_masks (B, Q, H / 4, W / 4), logits.

What is written is run on images of several sizes, and refused unless it finds what PyTorch finds.
Names of classes, image size, mean, deviation and the model's options stand in the file's metadata.

examples:
  python tools/export_onnx.py output/checkpoint.pth
  python tools/export_onnx.py output/checkpoint.pth --normalize --mask_input --output detector.onnx
  python tools/export_onnx.py output/checkpoint.pth --format torch
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from arguments import add_detector_options
from detector import Detector, load_detector
from tools.graph_export.detector import (
    OUTPUTS,
    ExportableDetector,
    export_detector,
    input_shapes,
    metadata,
    side_limits,
)
from tools.graph_export.files import (
    SUFFIXES,
    Run,
    check_onnx_packages,
    load_onnx,
    load_torch,
    quiet,
    save_onnx,
    save_torch,
)
from util.cli import OneLineParser, run_command, whole_number
from util.errors import UserError
from util.files import check_no_overwrite, staging_folder

BOXES_MAY_DIFFER = 1e-3  # of the image's sides
LOGITS_MAY_DIFFER = 1e-2  # where two classes are nearer than that, either may be first
MASKS_MAY_DIFFER = 1e-3  # of the pixels, on the other side of an outline


def write(
    detector: Detector, exportable: ExportableDetector, path: Path, args: argparse.Namespace
) -> None:
    """Export a detector to `path`.

    Raises:
        UserError: this version of PyTorch cannot, or not to this opset.
    """
    shapes = input_shapes(side_limits(detector), args.mask_input)
    about = metadata(detector, args.normalize)
    try:
        with quiet():
            program = export_detector(exportable, shapes)
            if args.format == "torch":
                save_torch(program, path, about)
            else:
                outputs = list(OUTPUTS[: 2 + detector.args.masks])
                save_onnx(program, path, outputs, about, shapes, args.opset)
    except (UserError, OSError):
        raise
    except Exception as error:  # exporters fail in many ways
        cause = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
        raise UserError(
            f"{args.checkpoint}: PyTorch {torch.__version__} cannot export it ({cause})"
        ) from error


# ---- does it find what PyTorch finds? ----


def shapes_to_check(detector: Detector) -> list[tuple[int, int, int]]:
    """Batch, height and width: landscape, portrait, and the smallest maps."""
    least, most = side_limits(detector)
    side = detector.args.image_size
    shapes = [(1, side, side * 4 // 3), (2, side * 2 // 3, side // 2), (1, least, 64), (2, 96, 64)]
    return [
        (batch, *(max(least, size if most is None else min(size, most)) for size in sizes))
        for batch, *sizes in shapes
    ]


def example(batch: int, height: int, width: int, mask_input: bool) -> dict[str, Tensor]:
    """Images of noise; with masks the last one is padded right and bottom."""
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
    if not mask_input:
        return {"images": images}
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    mask[-1, height - height // 4 :] = True
    mask[-1, :, width - width // 3 :] = True
    return {"images": images.masked_fill(mask[:, None], 0), "mask": mask}


@torch.no_grad()
def check(detector: Detector, exportable: ExportableDetector, run: Run, mask_input: bool) -> None:
    """Compare a file with PyTorch, and print by how much outputs differ.

    Raises:
        UserError: by too much.
    """
    rows = [("batch x height x width", *OUTPUTS[: 2 + detector.args.masks])]
    faults = []
    for shape in shapes_to_check(detector):
        inputs = example(*shape, mask_input)
        wanted, found = exportable(**inputs), run(inputs)
        where = " x ".join(map(str, shape))
        off = [(found[name] - wanted[name]).abs().max().item() for name in rows[0][1:]]
        rows.append((where, *(f"{value:.1e}" for value in off)))
        faults += [f"{fault} at {where}" for fault in differences(found, wanted)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print("largest differences from PyTorch")
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    if faults:
        raise UserError(f"the exported graph is refused, nothing is written: {faults[0]}")


def differences(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    """What of PyTorch's answers a graph does not give. A number that is none differs."""
    faults = []
    off = (found["pred_boxes"] - wanted["pred_boxes"]).abs().max().item()
    if not off <= BOXES_MAY_DIFFER:
        faults.append(f"boxes differ by {off:.1e}, more than {BOXES_MAY_DIFFER:.0e}")
    first = found["pred_logits"].argmax(-1, keepdim=True)
    behind = wanted["pred_logits"].amax(-1) - wanted["pred_logits"].gather(-1, first)[..., 0]
    other = (~(behind <= LOGITS_MAY_DIFFER)).sum().item()
    if other or not found["pred_logits"].isfinite().all():
        faults.append(f"{other} of {behind.numel()} top labels differ")
    if "pred_masks" in wanted:
        share = ((found["pred_masks"] > 0) != (wanted["pred_masks"] > 0)).float().mean().item()
        if not share <= MASKS_MAY_DIFFER or not found["pred_masks"].isfinite().all():
            faults.append(f"masks differ in {share:.1%} of their pixels")
    return faults


def get_args_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="export_onnx.py", description=__doc__)
    add = parser.add_argument
    add("checkpoint", metavar="PATH|URL", help="the detector's checkpoint")
    add("--output", type=Path, help="the file to write; if not given, model.onnx or model.pt2")
    add("--format", choices=tuple(SUFFIXES), default="onnx",
        help="onnx, or torch: a .pt2 file for torch.export.load")  # fmt: skip
    add("--mask_input", action="store_true", help="padding comes as a second input, mask")
    add("--normalize", action="store_true", help="images come with values from 0 to 1")
    add("--opset", type=whole_number(18), metavar="N",
        help="version of ONNX's operators; the exporter's choice if not given")  # fmt: skip
    add("--force", action="store_true", help="write over what is there")
    add_detector_options(parser, device=False)
    return parser


def check_options(args: argparse.Namespace) -> None:
    """Give args.output its default; raise a UserError before anything takes long."""
    suffix = SUFFIXES[args.format]
    args.output = args.output or Path("model").with_suffix(suffix)
    if args.output.suffix != suffix:
        raise UserError(f"--output {args.output}: files of --format {args.format} end in {suffix}")
    if not args.output.parent.is_dir():
        raise UserError(f"--output {args.output}: no such folder")
    if args.output.is_dir():
        raise UserError(f"--output {args.output}: is a folder")
    check_no_overwrite(args.output, args.force, "--output")
    if args.format == "onnx":
        check_onnx_packages()
    elif args.opset is not None:
        raise UserError("--opset is one of ONNX, there is none in --format torch")


def main() -> None:
    args = get_args_parser().parse_args()
    check_options(args)
    detector = load_detector(args.checkpoint, "cpu", args.trust_checkpoint)
    exportable = ExportableDetector(detector.model, args.normalize).eval()
    try:
        with staging_folder(args.output.parent) as folder:
            path = folder / args.output.name
            write(detector, exportable, path, args)
            for file in folder.iterdir():  # large weights have one of their own
                check_no_overwrite(args.output.parent / file.name, args.force, "--output")
            run = load_torch(path) if args.format == "torch" else load_onnx(path)
            check(detector, exportable, run, args.mask_input)
    except OSError as error:
        raise UserError(f"--output {args.output}: {error.strerror or error}") from error
    megabytes = args.output.stat().st_size / 2**20
    print(f"{args.output}: {megabytes:.1f} MiB, {args.format}, "
          f"inputs {', '.join(input_shapes((33, None), args.mask_input))}")  # fmt: skip


if __name__ == "__main__":
    run_command(main)
