"""Export detectors as graphs of standard operators, with the metadata that runtimes need."""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from checkpoints.compatibility import MODEL_OPTIONS
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from detector import Detector
from models.position_encoding import PositionEmbeddingLearned
from util.misc import NestedTensor

from .writing import export_program

OUTPUTS = ("pred_logits", "pred_boxes", "pred_masks")


class ExportableDetector(nn.Module):
    """A detector whose inputs and outputs are plain tensors.

    Args:
        model: as from `build_model`.
        normalize: whether to normalise images, whose values are then from 0 to 1.
    """

    def __init__(self, model: nn.Module, normalize: bool = False):
        super().__init__()
        self.model = model
        self.normalize = normalize
        for name, value in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(value)[:, None, None], persistent=False)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Detect objects.

        Args:
            images: (B, 3, H, W) float32.
            mask: (B, H, W) bool, True on padding; None for no padding.

        Returns:
            pred_logits (B, Q, num_classes + 1), pred_boxes (B, Q, 4), and with a mask head
            pred_masks (B, Q, H / 4, W / 4); see `models.detr.DETR` and `models.segmentation`.
        """
        if self.normalize:
            images = (images - self.mean) / self.std
            if mask is not None:
                images = images.masked_fill(mask[:, None], 0)  # as padding is in training
        if mask is None:
            mask = torch.zeros_like(images[:, 0], dtype=torch.bool)
        outputs = self.model(NestedTensor(images, mask))
        return {name: outputs[name] for name in OUTPUTS if name in outputs}


def side_limits(detector: Detector) -> tuple[int, int | None]:
    """Return the smallest and largest side of images in pixels; None for no limit.

    A graph needs feature maps of at least two rows and columns: torch.export specialises on 1.
    """
    learned = detector.args.position_embedding == "learned"
    most = PositionEmbeddingLearned.MAX_SIZE * detector.stride if learned else None
    return detector.stride + 1, most


def input_shapes(limits: tuple[int, int | None], mask_input: bool) -> dict[str, dict[int, Dim]]:
    """Return the dynamic axes of a graph's inputs.

    Args:
        limits: see `side_limits`.
        mask_input: whether the mask of padding is a second input.
    """
    least, most = limits
    batch = Dim("batch", min=1)
    height, width = (Dim(name, min=least, max=most) for name in ("height", "width"))
    shapes = {"images": {0: batch, 2: height, 3: width}}
    return {**shapes, "mask": {0: batch, 1: height, 2: width}} if mask_input else shapes


def export_detector(
    exportable: ExportableDetector, shapes: dict[str, dict[int, Dim]]
) -> ExportedProgram:
    """Return the graph of a detector on the CPU; `shapes` are those of `input_shapes`."""
    least = shapes["images"][2].min
    # torch.export takes a batch of 1 for a constant, and equal sides for the same size.
    examples = {"images": torch.zeros(2, 3, 3 * least, 4 * least)}
    if "mask" in shapes:
        examples["mask"] = torch.zeros_like(examples["images"][:, 0], dtype=torch.bool)
    return export_program(exportable, examples, shapes)


def metadata(detector: Detector, normalize: bool) -> dict:
    """Return what a runtime must know besides the graph, as values for JSON."""
    names = {str(label): name for label, name in sorted(detector.names.items())}
    return {
        "names": names,
        "image_size": detector.args.image_size,
        "side_limits": side_limits(detector),
        "mean": [0, 0, 0] if normalize else IMAGENET_MEAN,
        "std": [1, 1, 1] if normalize else IMAGENET_STD,
        "options": {name: getattr(detector.args, name) for name in MODEL_OPTIONS},
    }
