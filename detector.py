"""A trained detector from its checkpoint alone: images in, named objects out."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from arguments import with_defaults
from checkpoints.compatibility import check_same_model, class_names, load_weights, saved_args
from checkpoints.infer_options import check_overrides, infer_options
from datasets.images import ImageReader
from datasets.orientation import upright
from datasets.pixel_values import as_rgb
from datasets.transforms import make_coco_transforms
from models.postprocess import postprocess
from util.checkpoint import load_checkpoint
from util.command_line import with_options
from util.dist import pick_device, print_main
from util.misc import NestedTensor, nested_tensor_from_tensor_list

OVERSHOOT = 0.2  # of bicubic interpolation
Picture = Image.Image | np.ndarray | Tensor | str | Path


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
                from 0 to 1. Paths and PIL images are turned as their EXIF orientation says.
            threshold: least score of a detection, from 0 to 1.

        Returns:
            One an image, the surest detections first: boxes (n, 4) float32, (x0, y0, x1, y1) in
            pixels of the image (if it is turned, of the turned one); scores (n,) float32; labels
            (n,) int64; names, n of them; with a mask head masks (n, H, W) bool. All on the CPU.

        Raises:
            UserError: a file is missing or no image.
            TypeError, ValueError: something else is none, or the threshold is no score.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1, is {threshold}")
        if not isinstance(images, list | tuple):
            images = [images]
        if not images:
            return []
        batch = self.prepare(images)
        outputs = self.model(batch.samples)
        results = postprocess(self.postprocessors, outputs, batch.orig_sizes, batch.sizes)
        return [self.surest(result, threshold) for result in results]

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

    def surest(self, result: dict[str, Tensor], threshold: float) -> dict:
        """An image's detections of at least this score, the surest first, with their names.

        Args:
            result: tensors of Q queries, among them scores and labels, as from `postprocess`.
        """
        result = {name: value.cpu() for name, value in result.items()}
        scores = result["scores"]
        order = scores.argsort(descending=True, stable=True)
        kept = order[scores[order] >= threshold]
        result = {name: value[kept] for name, value in result.items()}
        labels = result["labels"].tolist()
        return {**result, "names": [self.names.get(label, f"class {label}") for label in labels]}


def load_detector(
    path: str | Path, device: str = "auto", trust: bool = False, **options
) -> Detector:
    """The detector of a checkpoint that main.py has written, or the published code.

    Of a file that holds weights alone, as DETR's own model files, names and shapes of tensors tell
    most options; one line says what was read and what is assumed.

    Args:
        path: the file, or its https address.
        device: auto (CUDA if there is one), cpu, cuda or cuda:N.
        trust: see `util.checkpoint.load_checkpoint`.
        options: those of main.py that the checkpoint does not say, such as nheads=4,
            dilation=True, enc_rpe2d="rpe-2.0-euc-ctx-1-k", or that may be others, as image_size.

    Raises:
        UserError: no such file or device, no checkpoint, or one of another model than `options`.
        TypeError: main.py has no such option.
    """
    picked = pick_device(device)
    check_overrides(options)
    return build_detector(load_checkpoint(str(path), trust), str(path), picked, **options)


def build_detector(checkpoint: Any, given: str, device: torch.device, **options) -> Detector:
    """The detector of a checkpoint's content, for `load_detector`.

    Args:
        given: the checkpoint, as the user named it.
    """
    from models import build_model

    saved = saved_args(checkpoint, given)
    if saved is None:
        args, line = infer_options(checkpoint["model"], given, **options)
        print_main(f"{given}: {line}")
    else:
        vars(saved).update(options)
        args = with_defaults(saved, given)
    # "auto": which backends there are depends on the machine.
    args = with_options(args, resume=given, eval=True, attention="auto")
    args = with_options(args, **check_same_model(checkpoint, args))
    model, _, postprocessors = build_model(args)
    load_weights(model, checkpoint, given)
    model.to(device).eval()
    return Detector(model, postprocessors, class_names(checkpoint, args.num_classes), args, device)


def _as_picture(image: Picture) -> Image.Image:
    """As PIL's RGB."""
    if isinstance(image, str | Path):
        path = Path(image)
        return upright(ImageReader(path.parent).read(path.name))
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"an image has no pixels: it is {image.height} x {image.width}")
        return upright(as_rgb(image))
    if isinstance(image, Tensor):
        image = _as_array(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"images are paths, PIL images, arrays or tensors, not {type(image)}")
    if image.dtype != np.uint8:
        raise TypeError(f"arrays are of uint8, not {image.dtype}")
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)) or not image.size:
        raise ValueError(f"arrays are (H, W, 3) or (H, W), not {image.shape}")
    return Image.fromarray(image).convert("RGB")


def _as_array(image: Tensor) -> np.ndarray:
    """(3, H, W) of uint8, or of floats from 0 to 1 -> (H, W, 3) of uint8."""
    if image.dim() != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(f"tensors are (3, H, W), not {tuple(image.shape)}")
    if image.is_floating_point():
        low, high = (value.item() for value in image.aminmax())
        # Resizing may leave values a little outside; written so that NaN fails, too.
        if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
            raise ValueError(
                f"tensors of floats are from 0 to 1, not from {low:g} to {high:g}: divide those "
                "up to 255 by 255, and do not normalise"
            )
        image = (image.clamp(0, 1) * 255).round().byte()
    if image.dtype != torch.uint8:
        raise TypeError(f"tensors are of uint8 or floats, not {image.dtype}")
    return image.permute(1, 2, 0).cpu().numpy()


def _no_target() -> dict:
    """What the transforms work on beside an image."""
    return {"boxes": torch.zeros(0, 4)}
