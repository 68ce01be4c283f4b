"""Export a trained classifier to ONNX, or to PyTorch's own format (torch.export).

Input: images (B, 3, H, W) float32, RGB, normalised with ImageNet's mean and standard deviation
(--normalize puts that into the graph). Output: logits (B, classes). The batch size is dynamic, and
with --dynamic_size also height and width, at least two and whole numbers of patches: position
embeddings are resized in the graph.

The file is run on batches of several sizes, and kept only if its logits are PyTorch's. Names of
classes, image size, mean, standard deviation and the model's encoding are in its metadata.

examples:
  python classification/tools/export_onnx.py output/checkpoint.pth
  python classification/tools/export_onnx.py output/checkpoint.pth --normalize --dynamic_size
  python classification/tools/export_onnx.py output/checkpoint.pth --format torch --average
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import add_detector_options
from tools.graph_export.options import add_graph_options
from training.start.options import add_checkpoint_argument
from util.cli import OneLineParser, answer_first, run_command


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="export_onnx.py", description=__doc__)
    add = parser.add_argument
    add_checkpoint_argument(parser, "classifier")
    add("--average", action="store_true", help="take the averaged weights of the checkpoint")
    add("--dynamic_size", action="store_true", help="let images have any height and width")
    add_graph_options(parser)
    add_detector_options(parser, device=False)
    return parser


if __name__ == "__main__":  # a missing timm is an error of one line
    answer_first(get_args_parser, lambda: importlib.import_module("classification"))

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from classification.classifier import Classifier, load_classifier
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from tools.graph_export.files import Run
from tools.graph_export.writing import (
    Graph,
    check_graph_options,
    export_program,
    report_differences,
    write_verified,
)

TOLERANCE = 1e-3  # of the largest logit
ROUNDING = 1e-5  # of logits that are all 0
BATCHES = (1, 2, 5)
OUTPUT = "logits"
LEAST = 2  # rows and columns of patches: torch.export takes 1 for a constant


class ExportableClassifier(nn.Module):
    """A classifier whose output has a name.

    Args:
        model: as of `Classifier`.
        normalize: whether to normalise images, whose values are then from 0 to 1.
    """

    def __init__(self, model: nn.Module, normalize: bool = False):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.model = model
        self.normalize = normalize
        for name, value in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(value)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute images (B, 3, H, W) -> {logits: (B, classes)}."""
        if self.normalize:
            images = (images - self.mean) / self.std
        return {OUTPUT: self.model(images)}


def input_shapes(classifier: Classifier) -> dict[str, dict[int, Dim]]:
    """Return the dynamic axes of the images."""
    axes = {0: Dim("batch", min=1)}
    if classifier.options.dynamic_img_size:
        rows, columns = classifier.options.patch_size
        axes[2] = rows * Dim("rows", min=LEAST)
        axes[3] = columns * Dim("columns", min=LEAST)
    return {"images": axes}


def export_classifier(classifier: Classifier, exportable: ExportableClassifier) -> ExportedProgram:
    """Return the graph of a classifier that is on the CPU."""
    height, width = classifier.options.img_size
    if classifier.options.dynamic_img_size:  # other ones than those that need no resizing
        rows, columns = classifier.options.patch_size
        height, width = height + rows, width + 2 * columns
    example = torch.zeros(2, 3, height, width)
    return export_program(exportable, {"images": example}, input_shapes(classifier))


def metadata(classifier: Classifier, normalize: bool) -> dict:
    """Return what a runtime must know besides the graph, as values for JSON."""
    options = classifier.options
    return {
        "names": classifier.classes,
        "image_size": options.img_size,
        "patch_size": options.patch_size,
        "dynamic_size": options.dynamic_img_size,
        "mean": [0, 0, 0] if normalize else IMAGENET_MEAN,
        "std": [1, 1, 1] if normalize else IMAGENET_STD,
        "model": options.name,
        "enc_rpe2d": options.enc_rpe2d,
    }


# ---- comparison with PyTorch ----


def shapes_to_check(classifier: Classifier) -> list[tuple[int, int, int]]:
    """Return batch, height and width of images; with dynamic sizes also portrait and small ones."""
    (height, width), (rows, columns) = classifier.options.img_size, classifier.options.patch_size
    shapes = [(batch, height, width) for batch in BATCHES]
    if classifier.options.dynamic_img_size:
        shapes += [(1, LEAST * rows, 3 * columns), (2, height + 3 * rows, width + columns)]
        shapes += [(1, height, width + 2 * columns), (1, LEAST * rows, LEAST * columns)]
    return shapes


@torch.no_grad()
def compare_with_pytorch(
    classifier: Classifier, exportable: ExportableClassifier, run: Run
) -> None:
    """Compare an exported graph with PyTorch on noise, and print by how much logits differ.

    Raises:
        UserError: they differ by too much.
    """
    rows, problems = [("batch x height x width", OUTPUT)], []
    for batch, height, width in shapes_to_check(classifier):
        generator = torch.Generator().manual_seed(batch)
        images = torch.randn(batch, 3, height, width, generator=generator)
        expected, actual = exportable(images)[OUTPUT], run({"images": images})[OUTPUT]
        where = f"{batch} x {height} x {width}"
        if actual.shape != expected.shape:
            problems.append(f"logits are {tuple(actual.shape)} at {where}")
            continue
        off = (actual - expected).abs().max().item()
        rows.append((where, f"{off:.1e}"))
        allowed = TOLERANCE * expected.abs().max().item() + ROUNDING
        if not off <= allowed:  # NaN is not
            problems.append(f"logits differ by {off:.1e}, more than {allowed:.0e}, at {where}")
    report_differences(rows, problems)


def main() -> None:
    args = get_args_parser().parse_args()
    check_graph_options(args)
    classifier = load_classifier(
        args.checkpoint, "cpu", args.average, args.trust_checkpoint,
        dynamic_img_size=args.dynamic_size,
    )  # fmt: skip
    exportable = ExportableClassifier(classifier.model, args.normalize).eval()
    graph = Graph(
        lambda: export_classifier(classifier, exportable),
        [OUTPUT],
        input_shapes(classifier),
        metadata(classifier, args.normalize),
    )
    write_verified(
        graph,
        lambda run: compare_with_pytorch(classifier, exportable, run),
        args,
        args.checkpoint,
    )


if __name__ == "__main__":
    run_command(main)
