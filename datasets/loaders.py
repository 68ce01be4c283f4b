"""Loaders of the two splits: who gets which images, in which batches."""

import argparse
from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from util import dist
from util.errors import UserError
from util.misc import collate_fn
from util.stopping import leave_stopping_to_main

from . import build_dataset
from .categories import set_classes
from .group_sampler import GroupedBatchSampler


class RestOfEpoch(BatchSampler):
    """The batches of an epoch from a step on; the images of those before are not read.

    Args:
        batches: all of an epoch's, on this process.

    Attributes:
        steps_before: how many are left out.
    """

    def __init__(self, batches: BatchSampler):
        super().__init__(batches.sampler, batches.batch_size, drop_last=True)
        self.batches = batches
        self.steps_before = 0

    def __iter__(self) -> Iterator[list[int]]:
        return islice(iter(self.batches), self.steps_before, None)

    def __len__(self) -> int:
        return len(self.batches) - self.steps_before


def go_to(loader: DataLoader, epoch: int, step: int) -> None:
    """Let the training loader's next iteration be that epoch's rest after `step` batches."""
    loader.dataset.set_epoch(epoch)
    loader.batch_sampler.sampler.set_epoch(epoch)
    loader.batch_sampler.steps_before = step


def build_loaders(args: argparse.Namespace) -> tuple[DataLoader, DataLoader]:
    """Loaders of the training and the validation split; None for training with args.eval.

    Sets args.num_classes and args.category_ids by the first split, if they are not known yet.
    """
    common = {
        "collate_fn": collate_fn,
        "num_workers": args.num_workers,
        "persistent_workers": args.num_workers > 0,  # they hear of a new epoch
        "worker_init_fn": leave_stopping_to_main,
        # Else they draw from the generator of dropout, how often depends on the workers.
        "generator": torch.Generator().manual_seed(args.seed),
        "pin_memory": dist.pick_device(args.device).type == "cuda",
    }
    splits = {}
    for image_set in ("val",) if args.eval else ("train", "val"):
        splits[image_set] = build_dataset(image_set, args)
        set_classes(args, splits[image_set].annotations)
    val = splits["val"]
    # Every image on exactly one process: a sampler that repeats some would count them twice.
    own_images = range(args.rank, len(val), args.world_size)
    loader_val = DataLoader(val, args.batch_size, sampler=own_images, **common)
    if args.eval:
        return None, loader_val

    train = splits["train"]
    sampler = DistributedSampler(train, args.world_size, args.rank, seed=args.seed)
    if args.group_by_shape:
        ratios = torch.from_numpy(train.annotations.aspect_ratios())
        batches = GroupedBatchSampler(sampler, args.batch_size, ratios)
    else:
        batches = BatchSampler(sampler, args.batch_size, drop_last=True)
    if len(batches) == 0:
        raise UserError(
            f"{len(train)} training images do not fill one batch of --batch_size "
            f"{args.batch_size} in each of {args.world_size} process(es)"
        )
    return DataLoader(train, batch_sampler=RestOfEpoch(batches), **common), loader_val
