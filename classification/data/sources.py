"""Images and their classes, from folders, archives or CIFAR-100."""

import argparse
from pathlib import Path
from typing import Protocol

from PIL import Image
from timm.data.readers import reader_image_in_tar
from torchvision.datasets import CIFAR100
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from datasets.images import ImageReader
from util import distributed as dist
from util.errors import UserError


class Source(Protocol):
    """Images by number, and their classes.

    Attributes:
        classes: names in order of labels.
        labels: of each image.
    """

    classes: list[str]
    labels: list[int]

    def read(self, index: int) -> Image.Image: ...


class Folder:
    """Images root/CLASS/..., as torchvision's ImageFolder reads them.

    Args:
        root: of the split.
        classes: of the training images, which decide the labels; None for those of the folder.

    Raises:
        UserError: there are no images, or images of another class than these.
    """

    def __init__(self, root: Path, classes: list[str] | None = None):
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; it should hold a folder for each class")
        try:
            found, _ = find_classes(root)
        except FileNotFoundError as error:
            raise UserError(f"{root}: has no folder of a class") from error
        found = [name for name in found if not name.startswith(".")]  # of Jupyter or the system
        self.classes = found if classes is None else classes
        numbers = _number(found, self.classes, root)
        samples = make_dataset(str(root), numbers, IMG_EXTENSIONS, allow_empty=True)
        empty = sorted(set(numbers.values()) - {label for _, label in samples})
        if samples and classes is None and empty:
            raise UserError(f"{root / found[empty[0]]}: the folder of a class has no image")
        if not samples:
            raise UserError(f"{root}: there is no image in its {len(found)} folder(s) of classes")
        self.labels = [label for _, label in samples]
        self._names = [str(Path(path).relative_to(root)) for path, _ in samples]
        self._reader = ImageReader(root)

    def read(self, index: int) -> Image.Image:
        """Return an image as RGB; a UserError if it cannot be read."""
        return self._reader.read(self._names[index])


class Archive(ImageReader):
    """Images of a tar archive, or of tar archives in it, as timm reads them.

    An image's class is its folder in the archive, or the name of the inner archive; classes are in
    natural order, so that class10 comes after class2.

    Args:
        path: of the archive.
        classes: as for `Folder`.

    Raises:
        UserError: it cannot be read, or holds no images, or images of another class than these.
    """

    def __init__(self, path: Path, classes: list[str] | None = None):
        if not path.is_file():
            raise UserError(f"{path}: no such archive; without --load-tar folders are read")
        # Large archives' lists are kept beside them; older versions of timm would run code there.
        keeps = None if hasattr(reader_image_in_tar, "_TarInfoUnpickler") else False
        try:
            # An open archive must not be shared with loader workers, who would move its position.
            self._tar = reader_image_in_tar.ReaderImageInTar(
                str(path), cache_tarfiles=False, cache_tarinfo=keeps
            )
        except Exception as error:  # malformed archives raise errors of any type
            empty = "not enough values to unpack" in str(error)
            reason = "it holds no images" if empty else f"not a readable archive ({error})"
            raise UserError(f"{path}: {reason}") from error
        numbered = self._tar.class_idx_to_name
        found = [numbered[number] for number in range(len(numbered))]
        if "" in found:
            raise UserError(f"{path}: it holds images that are in no folder of a class")
        self.path = path
        self.classes = found if classes is None else classes
        numbers = _number(found, self.classes, path)
        labels = [numbers[found[label]] for label in self._tar.targets.tolist()]
        # timm sorts by the name of a file alone; class by class, archives are as folders.
        self._order = sorted(range(len(labels)), key=labels.__getitem__)
        self.labels = sorted(labels)

    def read(self, index: int) -> Image.Image:  # type: ignore[override]
        """Return an image as RGB; a UserError if it cannot be read."""
        return super().read(str(index))

    def _find(self, file_name: str) -> tuple[str, bytes]:
        index = self._order[int(file_name)]
        name = f"{self.path}:{self._tar.filename(index)}"
        try:
            with self._tar[index][0] as file:
                return name, file.read()
        except Exception as error:
            raise UserError(f"{name}: cannot be read from the archive ({error})") from error


class Cifar:
    """CIFAR-100, from the folder that torchvision keeps it in."""

    def __init__(self, root: Path, train: bool):
        try:
            data = CIFAR100(str(root), train=train)
        except RuntimeError as error:
            raise UserError(f"{root}: holds no CIFAR-100 (cifar-100-python/)") from error
        self.classes, self.labels, self._images = data.classes, data.targets, data.data

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self._images[index])


def open_source(args: argparse.Namespace, split: str, classes: list[str] | None) -> Source:
    """Open the images of a split, "train" or "val".

    Args:
        classes: that decide the labels; None for those of the split.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    root = Path(args.data_path)
    if args.data_set == "CIFAR":
        return Cifar(root, split == "train")
    if not args.load_tar:
        if (root / f"{split}.tar").is_file() and not (root / split).is_dir():
            raise UserError(f"{root / split}: no such folder; --load-tar reads {split}.tar")
        return Folder(root / split, classes)
    # The main process first: it may write the list of a large archive, which the others read.
    if not dist.is_main_process():
        dist.barrier()
    source = Archive(root / f"{split}.tar", classes)
    if dist.is_main_process():
        dist.barrier()
    return source


def _number(found: list[str], classes: list[str], place: Path) -> dict[str, int]:
    """Return the labels of the classes found; a UserError for one that is not among `classes`."""
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in found if name not in numbers]
    if unknown:
        raise UserError(
            f"{place}: {len(unknown)} of its classes are not among the {len(classes)} that the "
            f"model learns or has learned, such as {unknown[0]!r}"
        )
    return {name: numbers[name] for name in found}
