"""What tools/cost.py measures: a detector or a classifier that can be built again and again.

They hold options alone, so that a process of its own can be given one.
"""

import argparse
import importlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from checkpoints.infer_options import summary
from models import NUM_CLASSES, build_model
from util.cli import with_options
from util.errors import UserError

from .parts import CLASSIFIER, DETECTOR, Part

Size = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class DetectorSubject:
    """A detector.

    Attributes:
        args: all options of main.py.
    """

    args: argparse.Namespace
    parts: tuple[Part, ...] = DETECTOR

    def __str__(self) -> str:
        """Describe it in a line."""
        classes = self.args.num_classes or NUM_CLASSES[self.args.dataset_file]
        return f"detector: {summary(with_options(self.args, num_classes=classes))}"

    @property
    def default_size(self) -> Size:
        """The size of most of COCO's images in an evaluation."""
        return self.args.image_size, self.args.image_size * 4 // 3

    def check_size(self, size: Size) -> None:
        """Accept any size."""

    def build(self) -> nn.Module:
        """Return a model with random weights, on PyTorch's default device."""
        # As if weights were to follow: none are downloaded.
        return build_model(with_options(self.args, resume="weights that are not read"))[0]


@dataclass(frozen=True)
class ClassifierSubject:
    """A classifier.

    Attributes:
        name: a key of `classification.MODELS`.
        options: of timm.create_model.
        img_size: height and width of the images that it is published for.
        patch_size: of their patches.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    img_size: int = 224
    patch_size: int = 16
    parts: tuple[Part, ...] = CLASSIFIER

    def __str__(self) -> str:
        """Describe it in a line."""
        others = [f"{name}={value}" for name, value in self.options.items()]
        return f"classifier: {', '.join([self.name, *others])}"

    @property
    def default_size(self) -> Size:
        """The size of the images that it is published for."""
        return self.img_size, self.img_size

    def check_size(self, size: Size) -> None:
        """Raise a UserError for an image that is not a whole number of patches."""
        if any(side % self.patch_size for side in size):
            raise UserError(
                f"--size {size[0]} {size[1]}: {self.name} takes sides that are multiples of "
                f"{self.patch_size}, the side of its patches"
            )

    def build(self) -> nn.Module:
        """Return a model with random weights, on PyTorch's default device."""
        importlib.import_module("classification")  # registers the models
        timm = importlib.import_module("timm")
        # Position embeddings stay as they are, and are resized to images of other sizes.
        try:
            return timm.create_model(self.name, dynamic_img_size=True, **self.options)
        except ValueError as error:
            raise UserError(f"--model {self.name}: {error}") from error


def classifier_subject(name: str, options: dict[str, Any]) -> ClassifierSubject:
    """Return the classifier of a name.

    Args:
        options: enc_rpe2d, attention and num_classes, those that are given.

    Raises:
        UserError: timm is missing, or there is no such model.
    """
    models = importlib.import_module("classification").MODELS
    if name not in models:
        raise UserError(f"--model {name}: no such classifier; there are {', '.join(models)}")
    return ClassifierSubject(name, options, models[name].img_size)


Subject = DetectorSubject | ClassifierSubject


def build_without_memory(subject: Subject) -> nn.Module:
    """Return the model with tensors of the meta device, which have shapes alone."""
    with torch.device("meta"):
        return subject.build()
