"""A trained detector from its checkpoint alone: images in, named objects out."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from datasets.images import ImageReader
from datasets.transforms import make_coco_transforms
from util.checkpoint import load_checkpoint
from util.dist import pick_device
from util.errors import UserError
from util.misc import NestedTensor, nested_tensor_from_tensor_list
from util.version import VERSION

from .arguments import with_defaults
from .compatibility import check_same_model, load_weights
from .postprocess import postprocess

Picture = Image.Image | np.ndarray | Tensor | str | Path

# COCO's own classes, by category id; checkpoints of the published code do not name them.
COCO_NAMES = {
    i: name
    for i, name in enumerate(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
    if name not in ("__background__", "N/A")
}


class Batch(NamedTuple):
    """Images as the model takes them.

    Attributes:
        samples: normalised and padded, on the detector's device.
        sizes, orig_sizes: (B, 2) int64, height and width after and before resizing.
        pictures: the images as they were.
    """

    samples: NestedTensor
    sizes: Tensor
    orig_sizes: Tensor
    pictures: list[Image.Image]


class Detector:
    """Finds objects on images of any size.

    Args:
        model: in evaluation mode, on `device`.
        postprocessors: as from `build_model`.
        names: of classes, by label.
        args: that the model was made with; their image_size is the shorter side that images are
            resized to.

    Attributes:
        model, postprocessors, names, args, device: as given.
    """

    def __init__(
        self,
        model: nn.Module,
        postprocessors: dict[str, nn.Module],
        names: dict[int, str],
        args: argparse.Namespace,
        device: torch.device,
    ):
        self.model = model
        self.postprocessors = postprocessors
        self.names = names
        self.args = args
        self.device = device
        self._transforms = make_coco_transforms("none", args.image_size)

    @torch.no_grad()
    def __call__(
        self, images: Picture | Sequence[Picture], threshold: float = 0.5
    ) -> list[dict[str, Tensor | list[str]]]:
        """Detect objects.

        Args:
            images: one or several, which go through the model as one batch: paths, PIL images,
                arrays (H, W, 3) or (H, W) of uint8, or tensors (3, H, W) of uint8, or of floats
                from 0 to 1.
            threshold: least score of a detection.

        Returns:
            One an image, the surest detections first: boxes (n, 4) float32, (x0, y0, x1, y1) in
            pixels of the image; scores (n,) float32; labels (n,) int64; names, n of them; with a
            mask head masks (n, H, W) bool. All on the CPU.

        Raises:
            UserError: a file is missing or no image.
            TypeError, ValueError: something else is none.
        """
        if not isinstance(images, list | tuple):
            images = [images]
        if not images:
            return []
        batch = self.prepare(images)
        outputs = self.model(batch.samples)
        results = postprocess(self.postprocessors, outputs, batch.orig_sizes, batch.sizes)
        return [self._surest(result, threshold) for result in results]

    def prepare(self, images: Sequence[Picture]) -> Batch:
        """One or more images of any kind that `__call__` takes, as one batch for the model."""
        pictures = [_as_picture(image) for image in images]
        prepared = [self._transforms(picture, _no_target())[0] for picture in pictures]
        return Batch(
            nested_tensor_from_tensor_list(prepared).to(self.device),
            torch.tensor([image.shape[1:] for image in prepared], device=self.device),
            torch.tensor([picture.size[::-1] for picture in pictures], device=self.device),
            pictures,
        )

    def _surest(self, result: dict[str, Tensor], threshold: float) -> dict:
        result = {name: value.cpu() for name, value in result.items()}
        scores = result["scores"]
        order = scores.argsort(descending=True, stable=True)
        kept = order[scores[order] >= threshold]
        result = {name: value[kept] for name, value in result.items()}
        labels = result["labels"].tolist()
        return {**result, "names": [self.names.get(label, f"class {label}") for label in labels]}


def load_detector(path: str | Path, device: str = "auto", trust: bool = False) -> Detector:
    """The detector of a checkpoint that main.py has written, or the published code.

    Args:
        path: the file, or its https address.
        device: auto (CUDA if there is one), cpu, cuda or cuda:N.
        trust: see `util.checkpoint.load_checkpoint`.

    Raises:
        UserError: no such file or device, no checkpoint, or one that does not say what model its
            weights belong to.
    """
    from . import build_model

    picked = pick_device(device)
    checkpoint = load_checkpoint(str(path), trust)
    saved = checkpoint.get("args") if isinstance(checkpoint, dict) else None
    if not isinstance(saved, argparse.Namespace):
        raise UserError(
            f"{path}: holds no 'args', which say what model its weights belong to; give a "
            "checkpoint.pth that main.py has written"
        )
    args = with_defaults(saved)
    args.resume, args.eval = str(path), True
    args.attention = "auto"  # what there is depends on the machine
    check_same_model(checkpoint, args)
    try:
        model, _, postprocessors = build_model(args)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: its options describe no model of version {VERSION} ({error}); it was made by "
            f"version {checkpoint.get('version', 'unknown')}"
        ) from error
    load_weights(model, checkpoint, str(path))
    model.to(picked).eval()
    names = checkpoint.get("classes")
    if not isinstance(names, dict):
        names = COCO_NAMES if args.num_classes in (91, 250) else {}
    return Detector(model, postprocessors, names, args, picked)


def _as_picture(image: Picture) -> Image.Image:
    """As PIL's RGB."""
    if isinstance(image, str | Path):
        path = Path(image)
        return ImageReader(path.parent).read(path.name)
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, Tensor):
        if image.dim() != 3 or image.shape[0] != 3:
            raise ValueError(f"tensors are (3, H, W), not {tuple(image.shape)}")
        if image.is_floating_point():
            image = (image.clamp(0, 1) * 255).round()
        image = image.byte().permute(1, 2, 0).cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise TypeError(f"images are paths, PIL images, arrays or tensors, not {type(image)}")
    if image.dtype != np.uint8:
        raise TypeError(f"arrays are of uint8, not {image.dtype}")
    return Image.fromarray(image).convert("RGB")


def _no_target() -> dict:
    """What the transforms work on beside an image."""
    return {"boxes": torch.zeros(0, 4)}
