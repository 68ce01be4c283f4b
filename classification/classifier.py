"""Load a trained classifier from its checkpoint alone: images in, names and probabilities out."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch import Tensor, nn

from datasets.image_inputs import ImageInput, to_pil
from util.checkpoint import load_checkpoint
from util.distributed import pick_device, print_main
from util.errors import UserError

from .checkpoints import fill, state_of
from .data.evaluated_images import evaluation_transform
from .model_options import ModelOptions, infer_model


@dataclass(eq=False, repr=False)  # a model is long to read
class Classifier:
    """A model that says what is on an image.

    Attributes:
        model: in evaluation mode, on `device`.
        classes: names by the number of their logit.
        transform: turns PIL's RGB into what the model takes, (3, height, width) float32.
        options: that the model was built with.
    """

    model: nn.Module
    classes: list[str]
    transform: Callable[[Image.Image], Tensor]
    options: ModelOptions
    device: torch.device

    @torch.no_grad()
    def compute(self, batch: Tensor) -> Tensor:
        """Compute logits (B, classes) float32, on the CPU, of prepared images (B, 3, H, W).

        Raises:
            UserError: some are not finite numbers.
        """
        logits = self.model(batch.to(self.device)).float().cpu()
        if not logits.isfinite().all():
            raise UserError("the model's logits are not finite: its training diverged, it seems")
        return logits

    def logits(self, images: Sequence[ImageInput]) -> Tensor:
        """Compute logits (B, classes) float32, on the CPU, of images that go through as one batch.

        Args:
            images: as for `predict`.
        """
        if not images:
            return torch.zeros(0, len(self.classes))
        return self.compute(torch.stack([self.transform(to_pil(image)) for image in images]))

    def predict(
        self, images: ImageInput | Sequence[ImageInput], topk: int = 5
    ) -> list[list[tuple[str, float]]]:
        """Say what is on images.

        Args:
            images: one or several, which go through the model as one batch: paths, PIL images,
                arrays (H, W, 3) or (H, W) of uint8, or tensors (3, H, W) of uint8, or of floats
                from 0 to 1. Paths and PIL images are turned as their EXIF orientation says.
            topk: how many classes; all, if there are fewer.

        Returns:
            For each image the most probable classes, (name, probability), the most probable first.

        Raises:
            UserError: a file is missing or not an image.
            TypeError, ValueError: an input is not an image, or topk is less than 1.
        """
        if topk < 1:
            raise ValueError(f"topk must be at least 1, is {topk}")
        batch: Sequence[ImageInput]
        batch = [images] if isinstance(images, ImageInput) else images
        best = self.logits(batch).softmax(-1).topk(min(topk, len(self.classes)), sorted=True)
        return [
            [(self.classes[i], value) for i, value in zip(places, values, strict=True)]
            for places, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def load_classifier(
    checkpoint: str | Path,
    device: str = "auto",
    average: bool = False,
    trust: bool = False,
    **options: Any,
) -> Classifier:
    """Load the classifier of a checkpoint of this project or of the published DeiT with iRPE.

    What the checkpoint does not tell is inferred from names and shapes of its tensors, the heads
    and the encoding also from the model's name in its args or its file's; a line is printed that
    says what was read.

    Args:
        checkpoint: the file, or its https address.
        device: auto (CUDA if there is one), cpu, cuda or cuda:N.
        average: take the averaged weights that it holds beside the others.
        trust: see `util.checkpoint.load_checkpoint`.
        options: what the checkpoint does not tell, or what may differ: num_heads, enc_rpe2d,
            img_size, dynamic_img_size, attention; see `classification.model_options`.

    Raises:
        UserError: there is no such file or device, it is not a classifier's checkpoint, or does not
            determine the model.
        TypeError: there is no such option.
    """
    source, torch_device = str(checkpoint), pick_device(device, "device")
    content = load_checkpoint(source, trust)
    return build_classifier(content, source, torch_device, average, **options)


def build_classifier(
    content: Any, source: str, device: torch.device, average: bool = False, **options: Any
) -> Classifier:
    """Build the classifier of a checkpoint's content, see `load_classifier`.

    Args:
        source: path or address of the checkpoint, for messages.
    """
    state = state_of(content, average, source)
    saved = content.get("args") if isinstance(content, dict) else None
    args = saved if isinstance(saved, argparse.Namespace) else argparse.Namespace()
    found = infer_model(state, args, source, **options)
    print_main(f"{source}: {found}")
    model = found.build()
    for line in fill(model, state, source, found.saved_grid).lines():
        print_main(line)
    model.to(device).eval()
    classes = class_names(content, found.num_classes, source)
    return Classifier(model, classes, evaluation_transform(found.img_size), found, device)


def class_names(content: Any, num_classes: int, source: str) -> list[str]:
    """Return a checkpoint's names of classes; ImageNet's if it has none, and 1000 classes.

    Raises:
        UserError: it has names, but not one for each class.
    """
    names = content.get("classes") if isinstance(content, dict) else None
    if isinstance(names, dict):
        names = [names.get(i, f"class {i}") for i in range(num_classes)]
    if names is not None:
        if not isinstance(names, list | tuple) or len(names) != num_classes:
            count = len(names) if isinstance(names, list | tuple) else "no"
            raise UserError(f"{source}: has {count} names of classes for {num_classes} logits")
        return [str(name) for name in names]
    if num_classes == 1000:
        info = ImageNetInfo()
        return [info.index_to_description(i) for i in range(num_classes)]
    return [f"class {i}" for i in range(num_classes)]
