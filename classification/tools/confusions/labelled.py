"""Images in a folder a class, as torchvision's ImageFolder has them."""

import sys
from pathlib import Path
from typing import NamedTuple

from timm.data import ImageNetInfo
from torch import Tensor
from torch.utils.data import Dataset

from classification.classifier import Classifier
from datasets.images import ImageReader
from datasets.layouts import SUFFIXES
from util.errors import UserError


class Labelled(NamedTuple):
    """Images and their classes.

    Attributes:
        folder: that holds the folders of the classes.
        paths: of the images.
        labels: numbers of the classifier's classes, one a path.
    """

    folder: Path
    paths: list[Path]
    labels: list[int]


def find_labelled(root: Path, classes: list[str], source: str) -> Labelled:
    """Return the images below root/val/CLASS or, where there is no val, root/CLASS.

    Args:
        classes: names of the classifier's classes.
        source: the classifier's checkpoint, for messages.

    Raises:
        UserError: there are none, or the folders are not the classifier's classes.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    folder = root / "val" if (root / "val").is_dir() else root
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    if not folders:
        raise UserError(f"{folder}: has no folder for each class, such as {folder}/CLASS/a.jpg")
    labels = _labels([path.name for path in folders], classes, folder, source)
    found = [
        (path, label)
        for inside, label in zip(folders, labels, strict=True)
        for path in sorted(inside.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    if not found:
        raise UserError(f"{folder}: no images in its folders ({', '.join(sorted(SUFFIXES))})")
    return Labelled(folder, [path for path, _ in found], [label for _, label in found])


def _labels(folders: list[str], classes: list[str], where: Path, source: str) -> list[int]:
    """Return the number of the class of each folder, whose names are sorted."""
    known = {name: label for label, name in enumerate(classes)}
    if len(known) == len(classes) and all(name in known for name in folders):
        return [known[name] for name in folders]
    if len(folders) == len(classes):  # as ImageFolder numbers them in training
        return list(range(len(classes)))
    if len(classes) == 1000:  # ImageNet's folders have names such as n01440764
        synsets = {name: label for label, name in enumerate(ImageNetInfo().label_names())}
        if all(name in synsets for name in folders):
            return [synsets[name] for name in folders]
    unknown = next((name for name in folders if name not in known), folders[0])
    raise UserError(
        f"{where}: {unknown!r:.80} is no class of {source}, and its {len(folders)} folders are not "
        f"as many as the {len(classes)} classes"
    )


def read_stored(path: Path):
    """Read an image as PIL's RGB as it is stored: evaluations do not turn it upright either.

    Raises:
        UserError: it is not a readable image.
    """
    return ImageReader(path.parent).read(path.name)


class Prepared(Dataset):
    """Images as a classifier takes them, with their places among all; None where unreadable."""

    def __init__(self, labelled: Labelled, classifier: Classifier):
        self.paths, self.transform = labelled.paths, classifier.transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[int, Tensor | None]:
        try:
            return place, self.transform(read_stored(self.paths[place]))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return place, None
