"""Loaders of the two splits: who gets which images, in which batches."""

import argparse
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import wait
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from util import dist
from util.command_line import with_options
from util.errors import UserError
from util.misc import collate_fn
from util.stopping import leave_stopping_to_main, say, stop_soon
from util.text import one_line

from . import build_dataset
from .annotations.categories import Classes, classes_for, number_labels
from .group_sampler import GroupedBatchSampler

EXIT_NO_ROOM = 71  # of a loader worker


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


class Loader(DataLoader):
    """A DataLoader that outlives its workers: images that they owe are read by this process.

    A worker that was killed, as systems do when memory runs out, stops a run that is training,
    saved, at the end of its step. One that finds no room in /dev/shm only costs time.

    Raises:
        UserError: a worker ended otherwise.
    """

    _processes: frozenset = frozenset()
    _workers_are_lost = False

    def __iter__(self) -> Iterator[Any]:
        done = 0
        if not self._workers_are_lost:
            try:
                for batch in self._batches_of_workers():
                    yield batch
                    done += 1
                return
            except (RuntimeError, OSError, EOFError) as error:
                self._take_over(error)
        for indices in islice(self.batch_sampler, done, None):
            yield self.collate_fn([self.dataset[index] for index in indices])

    def _batches_of_workers(self) -> Iterator[Any]:
        before = frozenset(multiprocessing.active_children())
        # Semaphores lie in /dev/shm, too. DataLoader fails at great length where there is no room.
        _ = [multiprocessing.Event() for _ in range(self.num_workers)]
        batches = super().__iter__()
        self._processes |= frozenset(multiprocessing.active_children()) - before
        if self.num_workers and threading.current_thread() is threading.main_thread():
            # PyTorch's handler raises an error wherever the process is just then, be it in an
            # update of the weights or a checkpoint. Asking for the next batch finds out, too.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return batches

    def _take_over(self, error: Exception) -> None:
        """Do without workers, if it was one of them that ended, or could not start."""
        # A broken connection may be known before the end of the process at its other end.
        wait([worker.sentinel for worker in self._processes], timeout=0.5)
        codes = [worker.exitcode for worker in self._processes if worker.exitcode]
        if codes and codes[0] == -signal.SIGKILL:
            stop_soon(signal.SIGCHLD)
            what = "a loader worker was killed, as systems do when memory runs out"
        elif codes and codes[0] in (EXIT_NO_ROOM, -signal.SIGBUS):
            what = (
                "loader workers cannot hand over their batches, as where /dev/shm is small (docker "
                "run --shm-size)"
            )
        elif codes:
            code = codes[0]
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise UserError(
                f"a loader worker ended with {name}; --num_workers 0 may show why"
            ) from error
        elif isinstance(error, OSError) and not self._processes:
            what = f"no loader workers can be started ({one_line(str(error), 200)})"
        else:
            raise error
        self._workers_are_lost = True
        self._iterator = None  # ends the others
        print(f"{what}; this process reads images itself now", file=sys.stderr, flush=True)


def _prepare_worker(worker_id: int) -> None:
    leave_stopping_to_main()
    # By itself a worker goes on without the batch that it cannot hand over: the run waits for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)


def _end_worker(error: Exception, batch: Any) -> None:
    say(f"loader worker: {one_line(str(error), 300)}")
    os._exit(EXIT_NO_ROOM)


def go_to(loader: DataLoader, epoch: int, step: int) -> None:
    """Let the training loader's next iteration be that epoch's rest after `step` batches."""
    loader.dataset.set_epoch(epoch)
    loader.batch_sampler.sampler.set_epoch(epoch)
    loader.batch_sampler.steps_before = step


def build_loaders(args: argparse.Namespace) -> tuple[DataLoader, DataLoader]:
    """Build the loaders of the training and the validation split; with args.eval of the latter
    alone, and None for training.

    Each data set gets an attribute `classes`: those of `args`, or where args.num_classes is None
    those that the first split needs.
    """
    common = {
        "collate_fn": collate_fn,
        "num_workers": args.num_workers,
        "persistent_workers": args.num_workers > 0,  # they hear of a new epoch
        "worker_init_fn": _prepare_worker,
        # Else they draw from the generator of dropout, how often depends on the workers.
        "generator": torch.Generator().manual_seed(args.seed),
        "pin_memory": dist.pick_device(args.device).type == "cuda",
    }
    splits = {}
    for image_set in ("val",) if args.eval else ("train", "val"):
        splits[image_set] = dataset = build_dataset(image_set, args)
        if args.num_classes is None:
            classes = classes_for(dataset.annotations)
            if classes.category_ids is not None:
                number_labels(dataset.annotations, classes.category_ids)
            args = with_options(args, **classes._asdict())
        dataset.classes = Classes(args.num_classes, args.category_ids)
    val = splits["val"]
    # Every image on exactly one process: a sampler that repeats some would count them twice.
    own_images = range(args.rank, len(val), args.world_size)
    loader_val = Loader(val, args.batch_size, sampler=own_images, **common)
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
    return Loader(train, batch_sampler=RestOfEpoch(batches), **common), loader_val
