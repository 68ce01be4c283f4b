"""Export a trained detector to ONNX, or to PyTorch's own format (torch.export).

Batch size, height and width are dynamic; sides have at least 33 pixels (17 with --dilation).
Inputs: images (B, 3, H, W) float32, RGB, normalised with ImageNet's mean and standard deviation
(--normalize puts that into the graph), and with --mask_input mask (B, H, W) bool, True on padding.
Outputs: pred_logits (B, Q, classes + 1), the last one for no object; pred_boxes (B, Q, 4), centre,
width and height in [0, 1] of the unpadded image; with a mask head pred_masks (B, Q, H / 4, W / 4),
logits.

The file is run on images of several sizes, and kept only if its outputs are PyTorch's. Names of
classes, image size, mean, standard deviation and the model's options are in its metadata.

examples:
  python tools/export_onnx.py output/checkpoint.pth
  python tools/export_onnx.py output/checkpoint.pth --normalize --mask_input --output detector.onnx
  python tools/export_onnx.py output/checkpoint.pth --format torch
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from arguments import add_detector_options
from tools.graph_export.options import add_graph_options
from training.start.options import add_checkpoint_argument
from util.cli import OneLineParser, answer_first, run_command


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="export_onnx.py", description=__doc__)
    add = parser.add_argument
    add_checkpoint_argument(parser)
    add("--mask_input", action="store_true", help="add a second input, the mask of padding")
    add_graph_options(parser)
    add_detector_options(parser, device=False)
    return parser


if __name__ == "__main__":
    answer_first(get_args_parser)

import torch
from torch import Tensor

from detector import Detector, load_detector
from tools.graph_export.detector import (
    OUTPUTS,
    ExportableDetector,
    export_detector,
    input_shapes,
    metadata,
    side_limits,
)
from tools.graph_export.files import Run
from tools.graph_export.writing import (
    Graph,
    check_graph_options,
    report_differences,
    write_verified,
)

BOXES_TOLERANCE = 1e-3  # of the image's sides
LOGITS_TOLERANCE = 1e-2  # two classes nearer than that may change places
MASKS_TOLERANCE = 1e-3  # share of pixels on the other side of an outline


def graph_of(detector: Detector, exportable: ExportableDetector, args: argparse.Namespace) -> Graph:
    """Return what is exported of a detector."""
    shapes = input_shapes(side_limits(detector), args.mask_input)
    return Graph(
        lambda: export_detector(exportable, shapes),
        list(OUTPUTS[: 2 + detector.args.masks]),
        shapes,
        metadata(detector, args.normalize),
    )


# ---- comparison with PyTorch ----


def shapes_to_check(detector: Detector) -> list[tuple[int, int, int]]:
    """Return batch, height and width of images: landscape, portrait, and the smallest maps."""
    least, most = side_limits(detector)
    side = detector.args.image_size
    shapes = [(1, side, side * 4 // 3), (2, side * 2 // 3, side // 2), (1, least, 64), (2, 96, 64)]
    return [
        (batch, *(max(least, size if most is None else min(size, most)) for size in sizes))
        for batch, *sizes in shapes
    ]


def example(batch: int, height: int, width: int, mask_input: bool) -> dict[str, Tensor]:
    """Return images of noise; with masks the last one is padded at the right and bottom."""
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
    if not mask_input:
        return {"images": images}
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    mask[-1, height - height // 4 :] = True
    mask[-1, :, width - width // 3 :] = True
    return {"images": images.masked_fill(mask[:, None], 0), "mask": mask}


@torch.no_grad()
def compare_with_pytorch(
    detector: Detector, exportable: ExportableDetector, run: Run, mask_input: bool
) -> None:
    """Compare an exported graph with PyTorch, and print by how much outputs differ.

    Raises:
        UserError: they differ by too much.
    """
    rows = [("batch x height x width", *OUTPUTS[: 2 + detector.args.masks])]
    problems = []
    for shape in shapes_to_check(detector):
        inputs = example(*shape, mask_input)
        expected, actual = exportable(**inputs), run(inputs)
        where = " x ".join(map(str, shape))
        off = [(actual[name] - expected[name]).abs().max().item() for name in rows[0][1:]]
        rows.append((where, *(f"{value:.1e}" for value in off)))
        problems += [f"{problem} at {where}" for problem in differences(actual, expected)]
    report_differences(rows, problems)


def differences(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Return in what the outputs of a graph differ from PyTorch's; NaN always differs."""
    problems = []
    off = (actual["pred_boxes"] - expected["pred_boxes"]).abs().max().item()
    if not off <= BOXES_TOLERANCE:
        problems.append(f"boxes differ by {off:.1e}, more than {BOXES_TOLERANCE:.0e}")
    top = actual["pred_logits"].argmax(-1, keepdim=True)
    # How far PyTorch's logit of that class is below its own top logit.
    behind = expected["pred_logits"].amax(-1) - expected["pred_logits"].gather(-1, top)[..., 0]
    other = (~(behind <= LOGITS_TOLERANCE)).sum().item()
    if other or not actual["pred_logits"].isfinite().all():
        problems.append(f"{other} of {behind.numel()} top labels differ")
    if "pred_masks" in expected:
        share = ((actual["pred_masks"] > 0) != (expected["pred_masks"] > 0)).float().mean().item()
        if not share <= MASKS_TOLERANCE or not actual["pred_masks"].isfinite().all():
            problems.append(f"masks differ in {share:.1%} of their pixels")
    return problems


def main() -> None:
    args = get_args_parser().parse_args()
    check_graph_options(args)
    detector = load_detector(args.checkpoint, "cpu", args.trust_checkpoint)
    exportable = ExportableDetector(detector.model, args.normalize).eval()
    write_verified(
        graph_of(detector, exportable, args),
        lambda run: compare_with_pytorch(detector, exportable, run, args.mask_input),
        args,
        args.checkpoint,
    )


if __name__ == "__main__":
    run_command(main)
