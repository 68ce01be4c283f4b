"""Samples of a run: augmentation, its random choices, and which image is on which process."""

import argparse
import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from timm.data.distributed_sampler import RepeatAugSampler
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, DistributedSampler
from torchvision import transforms

from datasets.loaders import (
    Loader,
    ResumableBatchSampler,
    check_batches,
    loader_options,
    own_images,
)
from util.errors import UserError

from .evaluated_images import SMALL, evaluation_transform
from .sources import Source, open_source


class Images(Dataset):
    """Samples (image, label, number): float32 (3, height, width), and two integers.

    An item's key is (number, place); an image's random choices depend on (seed, epoch, place)
    alone, so that they are the same whatever reads it, and differ where an epoch repeats it.

    Args:
        transform: of a PIL image to a tensor.
        seed: of the random choices.
    """

    def __init__(self, source: Source, transform: Any, seed: int):
        self.source = source
        self.transform = transform
        self.seed = seed
        # In shared memory, so that persistent loader workers see a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.source.labels)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, int, int]:
        index, place = key if isinstance(key, tuple) else (key, key)
        image = self.source.read(index)
        with seeded(f"{self.seed} {int(self._epoch)} {place}"):
            return self.transform(image), self.source.labels[index], index

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def fingerprint(self) -> str:
        """Return a short text that is the same for the same images, wherever they are.

        Labels and the pixels of a few images decide: reading all would take long.
        """
        digest = hashlib.sha256(repr((self.source.classes, list(self.source.labels))).encode())
        for index in range(0, len(self), -(-len(self) // 8)):
            digest.update(self.source.read(index).tobytes())
        return digest.hexdigest()[:16]

    def skip(self, images: Any) -> None:
        """Do nothing: no image is skipped, one that cannot be read ends the run."""

    def skipped(self) -> list[int]:
        return []


@contextlib.contextmanager
def seeded(key: str) -> Iterator[None]:
    """Seed Python's, NumPy's and PyTorch's generators for a while; afterwards they are as before.

    timm's transforms draw from all of them.
    """
    digest = hashlib.sha256(key.encode()).digest()
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(digest)
    np.random.seed(np.frombuffer(digest, dtype=np.uint32))  # noqa: NPY002
    # Not torch.manual_seed, which seeds GPUs, too.
    torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


class PlacedBatchSampler(BatchSampler):
    """A batch sampler of (number, place): `place` counts the samples of all processes' epoch."""

    def __iter__(self) -> Iterator[Any]:
        sampler: Any = self.sampler  # of a process's share
        count, rank = sampler.num_replicas, sampler.rank
        for number, batch in enumerate(super().__iter__()):
            first = number * self.batch_size
            yield [(image, (first + i) * count + rank) for i, image in enumerate(batch)]


def posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    """Keep the highest bits of each channel, timm's function; without any, the image is black.

    timm asks for none now and then, which newer versions of Pillow refuse.
    """
    if bits_to_keep < 1:
        return image.point(lambda _: 0)
    return auto_augment.posterize(image, bits_to_keep, **options)


def training_transform(args: argparse.Namespace) -> transforms.Compose:
    """Build the published augmentation; a UserError if --aa is not one of timm's."""
    policy = None if args.aa.lower() in ("", "none") else args.aa
    try:
        transform = create_transform(
            args.input_size, is_training=True, color_jitter=args.color_jitter,
            auto_augment=policy, interpolation=args.train_interpolation, re_prob=args.reprob,
            re_mode=args.remode, re_count=args.recount,
        )  # fmt: skip
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(f"--aa {policy}: timm knows no such augmentation ({error})") from error
    for step in transform.transforms:
        policies = getattr(step, "policy", [getattr(step, "ops", [])])
        for operation in (operation for policy in policies for operation in policy):
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = posterize
    if args.input_size <= SMALL:
        crop = transforms.RandomCrop(args.input_size, padding=4, pad_if_needed=True)
        transform.transforms[0] = crop
    return transform


def build_loaders(
    args: argparse.Namespace, classes: list[str] | None = None
) -> tuple[Loader | None, Loader]:
    """Build the loaders of both splits; the first is None with args.eval.

    Args:
        classes: names that decide the labels; None for those of the first split that is read.

    Raises:
        UserError: data are missing, or do not fill a batch in each process.
    """
    options = loader_options(args)
    train = None
    if not args.eval:
        train = Images(open_source(args, "train", classes), training_transform(args), args.seed)
        classes = train.source.classes
    prepare = evaluation_transform((args.input_size, args.input_size))
    val = Images(open_source(args, "val", classes), prepare, args.seed)
    size = int(1.5 * args.batch_size)  # as published: there is no backward pass
    loader_val = Loader(val, size, sampler=own_images(len(val), args), **options)
    if train is None:
        return None, loader_val
    sampler: RepeatAugSampler | DistributedSampler
    if args.repeated_aug:
        sampler = RepeatAugSampler(train, args.world_size, args.rank)
    else:
        sampler = DistributedSampler(train, args.world_size, args.rank, seed=args.seed)
    batches = PlacedBatchSampler(sampler, args.batch_size, drop_last=True)
    check_batches(batches, len(sampler) * args.world_size, args)
    return Loader(train, batch_sampler=ResumableBatchSampler(batches), **options), loader_val
