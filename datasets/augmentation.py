"""--augment: the parts that it names, and transforms of a user's own file.

    detr | flip          DETR's flips, sizes and crops, or flips alone
    photometric          random brightness, contrast, saturation, hue and order of channels
    FILE.py:NAME         an own transform: one of torchvision.transforms.v2, a function of image
                         and target, or a function without parameters that returns either

Parts are joined by +. Colours and own transforms come first, in the order in which they are named,
and see the image in its own size.
"""

import contextlib
import importlib.util
import inspect
import random
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from util.errors import UserError

from .annotations.categories import Classes
from .image_inputs import OVERSHOOT
from .transforms_functional import ImageLike, Sample
from .validation.issues import error_text

PRESETS = ("detr", "flip")
PHOTOMETRIC = "photometric"
OWN = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)")
GIVEN = ("boxes", "labels", "masks")  # to own transforms


class Augmentation(NamedTuple):
    """What --augment names: one of PRESETS or None, and the parts before it in order."""

    preset: str | None
    parts: list[str]


class AugmentationError(UserError):
    """An own transform failed, which is not the fault of an image that could be skipped."""


def with_known_labels(sample: Sample, classes: Classes | None) -> Sample:
    """Return a transformed sample; raise an AugmentationError if a label is of no class."""
    for label in [] if classes is None else sample[1]["labels"].tolist():
        if not 0 <= label < classes.num_classes:
            raise AugmentationError(
                f"--augment: a transform returned label {label}; the model has "
                f"{classes.num_classes} classes, numbered from 0"
            )
    return sample


def parse_augmentation(text: str) -> Augmentation:
    """Parse --augment, without reading any file.

    Raises:
        ValueError: it is malformed.
    """
    parts = text.split("+")
    presets = [part for part in parts if part in PRESETS]
    for part in parts:
        if part not in (*PRESETS, PHOTOMETRIC) and not OWN.fullmatch(part):
            raise ValueError(
                f"{part!r} is none of {', '.join(PRESETS)}, {PHOTOMETRIC} and FILE.py:NAME, which "
                "are joined by +"
            )
    if len(presets) > 1 or len(set(parts)) < len(parts):
        raise ValueError(f"{text!r} names {' and '.join(PRESETS)}, or a part twice")
    return Augmentation(
        presets[0] if presets else None, [part for part in parts if part not in PRESETS]
    )


def own_parts(text: str) -> list[str]:
    """Return the parts FILE.py:NAME of --augment."""
    return [part for part in parse_augmentation(text).parts if part != PHOTOMETRIC]


def load_own_transforms(augment: str) -> None:
    """Run the files that --augment of a command line names: nothing else runs them.

    Options in a checkpoint may name files, too, which is no reason to run them.

    Raises:
        UserError: a file is missing, fails, or has no such transform.
    """
    for part in own_parts(augment):
        _loaded[part] = OwnTransform(part)


def transform_of(part: str) -> Callable[[ImageLike, dict], Sample]:
    """Return the transform of a part of --augment.

    Raises:
        UserError: it is of a file that `load_own_transforms` was not given.
    """
    if part == PHOTOMETRIC:
        return Photometric()
    if part not in _loaded:
        raise UserError(f"--augment {part}: its code is run only where a command line names it")
    return _loaded[part]


class Photometric:
    """Changes colours as SSD does, by torchvision's values."""

    def __init__(self) -> None:
        self.distort = v2.RandomPhotometricDistort()

    def __call__(self, image: ImageLike, target: dict | None) -> Sample:
        return self.distort(image), target


class OwnTransform:
    """A transform that a user's file defines, applied to image, boxes, labels and masks.

    The image is a tv_tensors.Image (3, H, W) uint8; the target has boxes, tv_tensors.BoundingBoxes
    (n, 4) as corners in pixels, labels (n,) int64, and where masks are trained masks,
    tv_tensors.Mask (n, H, W) uint8. What is returned may have another size and other objects.
    Boxes are clipped to the image; those that are empty then are dropped by
    `datasets.transforms.ToModelInput`. Areas become those of boxes.

    During the call the generators of Python and NumPy are seeded by PyTorch's, which is the
    sample's own.

    Args:
        part: FILE.py:NAME.

    Raises:
        UserError: the file is missing, fails, or has no such transform.
        AugmentationError: when called: the transform fails or returns something else.
    """

    def __init__(self, part: str):
        self.part = part
        self.file, self.name = OWN.fullmatch(part).group("file", "name")
        self.transform = self._load()

    def __reduce__(self) -> tuple:
        """Let spawned loader workers, which have no module of the file, read it again."""
        return OwnTransform, (self.part,)

    def __call__(self, image: Tensor, target: dict) -> Sample:
        # Copies: what is cached must not change in place.
        boxes = target["boxes"].as_subclass(Tensor).clone()
        size = F.get_size(image)
        given = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": target["labels"].clone(),
        }
        if "masks" in target:
            given["masks"] = tv_tensors.Mask(target["masks"].clone())
        with _seeded_generators():
            try:
                returned = self.transform(image, given)
            except Exception as error:
                raise self._error(f"failed with {self._place(error)}") from error
        image, changed = self._checked(returned, "masks" in target)
        area = (changed["boxes"][:, 2:] - changed["boxes"][:, :2]).prod(dim=1)
        changed |= {"area": area, "iscrowd": torch.zeros(len(area), dtype=torch.int64)}
        return image, {**target, **changed, "size": torch.tensor(F.get_size(image))}

    def _load(self) -> Callable:
        path = Path(self.file)
        if not path.is_file():
            raise UserError(f"--augment {self.part}: {path}: no such file")
        name = f"own_transforms_{re.sub(r'[^0-9A-Za-z]', '_', str(path.absolute()))}"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise UserError(f"--augment {self.part}: {path}: {self._place(error)}") from error
        found = getattr(module, self.name, None)
        if not callable(found):
            raise UserError(f"--augment {self.part}: {path} has no function {self.name}")
        if isinstance(found, nn.Module) or _needs_arguments(found):
            return found
        try:
            found = found()
        except Exception as error:
            raise UserError(f"--augment {self.part}: failed with {self._place(error)}") from error
        if not callable(found):
            raise UserError(
                f"--augment {self.part}: returned a {type(found).__name__}, not a transform; a "
                "function that is itself one has the parameters image and target"
            )
        return found

    def _checked(self, returned: Any, masks: bool) -> tuple[Tensor, dict]:
        """Return image and changed parts of the target; raise an error for anything else."""
        if not (
            isinstance(returned, tuple | list)
            and len(returned) == 2
            and isinstance(returned[1], dict)
        ):
            raise self._error("returned something else than an image and a target, a dict")
        image, target = returned
        if isinstance(image, Image.Image):
            image = F.to_image(image)
        if not isinstance(image, Tensor) or image.dim() != 3 or image.shape[0] != 3:
            raise self._error("returned an image that is no tensor (3, H, W) and no PIL image")
        if image.is_floating_point():
            low, high = (value.item() for value in image.aminmax())
            if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
                raise self._error(
                    f"returned an image of floats from {low:g} to {high:g}, not from 0 to 1: do "
                    "not normalise"
                )
        elif image.dtype != torch.uint8:
            raise self._error(f"returned an image of {image.dtype}, not of uint8 or floats")
        size = F.get_size(image)
        changed = {name: target.get(name) for name in GIVEN[: 2 + masks]}
        for name, value in changed.items():
            if not isinstance(value, Tensor):
                raise self._error(f"returned {name} that are no tensor")
        count = len(changed["labels"])
        boxes = changed["boxes"]
        for name, shape in (("boxes", (count, 4)), ("labels", (count,)), ("masks", (count, *size))):
            if name in changed and tuple(changed[name].shape) != shape:
                raise self._error(
                    f"returned {name} of shape {tuple(changed[name].shape)}, not {shape}: {count} "
                    f"labels, an image of {size[0]} x {size[1]}"
                )
        labels = changed["labels"]
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise self._error(f"returned labels of {labels.dtype}, not whole numbers")
        changed["labels"] = labels.long()
        if isinstance(boxes, tv_tensors.BoundingBoxes):
            if tuple(boxes.canvas_size) != tuple(size):
                raise self._error("returned boxes of another canvas_size than the image")
            boxes = F.convert_bounding_box_format(boxes, new_format="XYXY")
        boxes = boxes.as_subclass(Tensor).float()
        if not boxes.isfinite().all():
            raise self._error("returned boxes that are not finite")
        limits = torch.tensor([size[1], size[0]] * 2)
        changed["boxes"] = boxes.clamp(min=torch.zeros(4), max=limits)
        return tv_tensors.Image(image), changed

    def _error(self, what: str) -> AugmentationError:
        return AugmentationError(f"--augment {self.part}: {what}")

    def _place(self, error: BaseException) -> str:
        """Return an exception's type and text, and the last line of the file that it came from."""
        path = str(Path(self.file).absolute())
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__)
                 if str(Path(f.filename).absolute()) == path]  # fmt: skip
        place = f" in line {lines[-1]}" if lines else ""
        return f"{type(error).__name__}{place}: {error_text(error)}"


_loaded: dict[str, OwnTransform] = {}


def _needs_arguments(function: Callable) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C
        return True
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(p.default is p.empty and p.kind not in variable for p in parameters)


@contextlib.contextmanager
def _seeded_generators() -> Iterator[None]:
    """Seed the generators of Python and NumPy for a sample; those of the run are not disturbed."""
    seed = int(torch.randint(2**32, ()))
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
