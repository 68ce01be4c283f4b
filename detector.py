"""Load a trained detector from its checkpoint alone: images in, named objects out."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from argument_checks import with_defaults
from checkpoints.compatibility import check_same_model, class_names, load_weights, saved_args
from checkpoints.infer_options import check_overrides, infer_options
from datasets.image_inputs import ImageInput, to_pil
from datasets.transforms import make_coco_transforms
from models import build_model
from models.postprocess import postprocess
from models.small_resnet import SMALL_RESNETS
from util.checkpoint import load_checkpoint
from util.cli import with_options
from util.distributed import pick_device, print_main
from util.errors import one_line
from util.misc import NestedTensor, nested_tensor_from_tensor_list
from util.pictures.drawing import drawn_on


class Batch(NamedTuple):
    """Images as the model takes them.

    Attributes:
        samples: normalised and padded, on the detector's device.
        sizes, orig_sizes: (B, 2) int64, height and width after and before resizing.
    """

    samples: NestedTensor
    sizes: Tensor
    orig_sizes: Tensor


NAMES_SHOWN = 5  # of classes, where a detector is printed


@dataclass(eq=False, repr=False)
class Detector:
    """A model that finds objects on images of any size.

    Attributes:
        model: in evaluation mode, on `device`.
        postprocessors: as from `build_model`.
        names: names of classes by label.
        args: options that the model was built with; images are resized to a shorter side of
            args.image_size.
    """

    model: nn.Module
    postprocessors: dict[str, nn.Module]
    names: dict[int, str]
    args: argparse.Namespace
    device: torch.device

    def __post_init__(self):
        self._transforms = make_coco_transforms("none", self.args.image_size)

    def __repr__(self) -> str:
        """Return one line, as a model is long to read: model, classes, size of images, device."""
        args = self.args
        model = " ".join(filter(None, (args.backbone, args.enc_rpe2d, args.dec_rpe)))
        names = list(self.names.values())
        shown = [*names[:NAMES_SHOWN], *["..."] * (len(names) > NAMES_SHOWN)]
        kind = "class" if len(names) == 1 else "classes"
        classes = f"{len(names)} {kind}: {', '.join(shown)}" if names else "classes without names"
        return one_line(
            f"Detector({type(self.model).__name__} {model}; {classes}; "
            f"images resized to {args.image_size}; {self.device})"
        )

    @property
    def stride(self) -> int:
        """Pixels of a resized image for one of the feature map that the transformer works on."""
        small = SMALL_RESNETS.get(self.args.backbone)
        if small is not None:
            return 4 * math.prod(small.strides)  # of the stem and the stages
        return 16 if self.args.dilation else 32

    @torch.no_grad()
    def __call__(
        self, images: ImageInput | Sequence[ImageInput], threshold: float = 0.5
    ) -> list[dict[str, Tensor | list[str]]]:
        """Detect objects.

        Args:
            images: one or several, which go through the model as one batch: paths, PIL images,
                arrays (H, W, 3) or (H, W) of uint8, or tensors (3, H, W) of uint8, or of floats
                from 0 to 1. Paths and PIL images are turned as their EXIF orientation says.
            threshold: lowest score of a detection, from 0 to 1.

        Returns:
            For each image its detections, sorted by score, highest first: boxes (n, 4) float32,
            (x0, y0, x1, y1) in pixels of the image (if it is turned, of the turned one); scores
            (n,) float32; labels (n,) int64; names, a list of n; with a mask head masks (n, H, W)
            bool. All on the CPU.

        Raises:
            UserError: a file is missing or not an image.
            TypeError, ValueError: an input is not an image, or the threshold is out of range.
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
        return [self.filter_detections(result, threshold) for result in results]

    def draw(
        self, image: ImageInput, found: dict | None = None, threshold: float = 0.5
    ) -> Image.Image:
        """Return a copy of an image with detections on it: boxes, names, scores and masks.

        Args:
            image: as for `__call__`; the copy is turned as its EXIF orientation says, and enlarged
                if it is too small for captions.
            found: detections of this image, one of the dicts that `__call__` returns; without them
                the image is searched now.
            threshold: lowest score where the image is searched.

        Raises:
            As `__call__`; TypeError if `found` is not the detections of one image.
        """
        picture = to_pil(image)
        if found is None:
            (found,) = self(picture, threshold)
        if not isinstance(found, dict):
            raise TypeError("found is what was found on one image, such as detector(image)[0]")
        return drawn_on(picture, found)

    @torch.no_grad()
    def detect_batch(
        self, samples: NestedTensor, targets: Sequence[dict[str, Tensor]]
    ) -> list[dict]:
        """Detect objects on a batch of a data set, as from `collate_fn`.

        Returns:
            For each image a dict as from `models.postprocess.postprocess`, or, where the detector
            finds panoptic segments, as from `models.postprocess.PostProcessPanoptic`.
        """
        orig_sizes, sizes = (
            torch.stack([target[name] for target in targets]).to(self.device)
            for name in ("orig_size", "size")
        )
        outputs = self.model(samples.to(self.device))
        if "panoptic" in self.postprocessors:
            return self.postprocessors["panoptic"](outputs, sizes, orig_sizes)
        return postprocess(self.postprocessors, outputs, orig_sizes, sizes)

    def prepare(self, images: Sequence[ImageInput]) -> Batch:
        """Return images of any kind that `__call__` takes, at least one, as a batch."""
        originals = [to_pil(image) for image in images]
        target = {"boxes": torch.zeros(0, 4)}  # the transforms want one beside each image
        resized = [self._transforms(image, dict(target))[0] for image in originals]
        return Batch(
            nested_tensor_from_tensor_list(resized).to(self.device),
            torch.tensor([image.shape[1:] for image in resized], device=self.device),
            torch.tensor([image.size[::-1] for image in originals], device=self.device),
        )

    def filter_detections(self, result: dict[str, Tensor], threshold: float) -> dict:
        """Return detections with at least this score, sorted by score, with names of classes.

        Args:
            result: tensors with a row for each of Q queries, scores and labels among them, as from
                `models.postprocess.postprocess`.
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
    """Load the detector of a checkpoint that main.py or the published code has written.

    For a file that holds weights alone, such as DETR's own model files, most options are inferred
    from names and shapes of tensors; a line is printed that says what was read and what is assumed.

    Args:
        path: the file, or its https address.
        device: auto (CUDA if there is one), cpu, cuda or cuda:N.
        trust: see `util.checkpoint.load_checkpoint`.
        options: options of main.py that the checkpoint does not tell, such as nheads=4,
            dilation=True, enc_rpe2d="rpe-2.0-euc-ctx-1-k", or that may differ, as image_size.

    Raises:
        UserError: there is no such file or device, it is not a detector's checkpoint, or `options`
            describe another model.
        TypeError: main.py has no such option.
    """
    torch_device = pick_device(device, "device")
    check_overrides(options)
    return build_detector(load_checkpoint(str(path), trust), str(path), torch_device, **options)


def build_detector(checkpoint: Any, source: str, device: torch.device, **options) -> Detector:
    """Build the detector of a checkpoint's content, see `load_detector`.

    Args:
        source: path or address of the checkpoint, for messages.
    """
    saved = saved_args(checkpoint, source)
    if saved is None:
        args, line = infer_options(checkpoint["model"], source, **options)
        print_main(f"{source}: {line}")
    else:
        vars(saved).update(options)
        args = with_defaults(saved, source)
    # eval=True keeps weights of a backbone from being downloaded; with "auto" the backend of the
    # attention depends on this machine, not on that of the training.
    args = with_options(args, resume=source, eval=True, attention="auto")
    args = with_options(args, **check_same_model(checkpoint, args))
    model, _, postprocessors = build_model(args)
    load_weights(model, checkpoint, source)
    model.to(device).eval()
    return Detector(model, postprocessors, class_names(checkpoint, args.num_classes), args, device)
