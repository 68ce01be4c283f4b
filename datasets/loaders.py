"""Data loaders of the two splits: which images are on which rank, in which batches."""

import argparse
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import wait
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler
from torch.utils.data._utils import signal_handling

from util import distributed as dist
from util.cli import with_options
from util.errors import UserError, one_line
from util.misc import collate_fn
from util.signals import ignore_stop_signals, request_stop, write_stderr

from . import build_dataset
from .annotations.categories import Classes, classes_for, number_labels
from .augmentation import own_parts
from .layouts import splits_read

EXIT_NO_SPACE = 71  # of a loader worker
SPAN = 64  # steps that exchange images; more would pad less, and mix less from epoch to epoch


class GroupedBatchSampler(BatchSampler):
    """A batch sampler that puts images of similar shape together, so that less padding is computed.

    An epoch has the same number of batches on each rank as without grouping, and every image once,
    up to what DistributedSampler repeats and an incomplete last batch leaves out, which are random
    images. A random order is cut into spans of SPAN steps; a span's images are sorted by aspect
    ratio, and its steps (one batch for each rank) are cut from that. So the batches of one step
    have similar shapes, too, and ranks wait less for each other. Then all steps of the epoch are
    shuffled.

    The order depends on the sampler's seed and epoch alone.

    Args:
        sampler: gives the numbers of images and ranks, its own order is not used.
        batch_size: images of a batch.
        ratios: (n,) any float dtype, width / height of each image.
    """

    def __init__(self, sampler: DistributedSampler, batch_size: int, ratios: torch.Tensor):
        super().__init__(sampler, batch_size, drop_last=True)
        self.ratios = ratios

    def __iter__(self) -> Iterator[list[int]]:
        sampler, steps = self.sampler, len(self)
        generator = torch.Generator().manual_seed(sampler.seed + sampler.epoch)
        order = torch.randperm(len(self.ratios), generator=generator)
        # As DistributedSampler: the first images again, until each rank has as many.
        order = order.repeat(-(-sampler.total_size // len(order)))[: sampler.total_size]
        step_size = sampler.num_replicas * self.batch_size
        spans = order[: steps * step_size].split(SPAN * step_size)
        # Stable: images of equal ratio keep their random order.
        spans = [span[self.ratios[span].argsort(stable=True)] for span in spans]
        batches = torch.cat(spans).view(steps, sampler.num_replicas, self.batch_size)
        for step in torch.randperm(steps, generator=generator):
            ranks = torch.randperm(sampler.num_replicas, generator=generator)
            yield batches[step, ranks[sampler.rank]].tolist()


class ResumableBatchSampler(BatchSampler):
    """A batch sampler that starts at any step of an epoch, without reading the images before it.

    Args:
        batches: all of an epoch's batches on this rank.

    Attributes:
        start_step: number of batches that are left out.
    """

    def __init__(self, batches: BatchSampler):
        super().__init__(batches.sampler, batches.batch_size, drop_last=True)
        self.batches = batches
        self.start_step = 0

    def __iter__(self) -> Iterator[list[int]]:
        return islice(iter(self.batches), self.start_step, None)

    def __len__(self) -> int:
        return len(self.batches) - self.start_step


class Loader(DataLoader):
    """A DataLoader that survives the loss of its workers: this process reads the rest itself.

    A worker that was killed, as systems do when memory runs out, makes a run that is training save
    and stop at the end of its step. One that finds no space in /dev/shm only costs time.

    Raises:
        UserError: a worker ended otherwise.
    """

    _workers: frozenset = frozenset()
    _lost_workers = False

    def set_position(self, epoch: int, step: int) -> None:
        """Let the next iteration give the batches of `epoch` from `step` on, of training images."""
        self.dataset.set_epoch(epoch)
        self.batch_sampler.sampler.set_epoch(epoch)
        self.batch_sampler.start_step = step

    def __iter__(self) -> Iterator[Any]:
        done = 0
        if not self._lost_workers:
            try:
                for batch in self._batches_from_workers():
                    yield batch
                    done += 1
                return
            except (RuntimeError, OSError, EOFError) as error:
                self._handle_lost_workers(error)
        for indices in islice(self.batch_sampler, done, None):
            yield self.collate_fn([self.dataset[index] for index in indices])

    def _batches_from_workers(self) -> Iterator[Any]:
        # Semaphores lie in /dev/shm, too. If there is no space for them, fail here in one line, not
        # within DataLoader, which prints tracebacks of its destructors.
        _ = [multiprocessing.Event() for _ in range(self.num_workers)]
        # PyTorch's handler raises an error wherever the process happens to be, even in an update of
        # the weights or a checkpoint. Asking for the next batch finds out, too.
        signal_handling._SIGCHLD_handler_set = True
        if self.num_workers and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # that of an earlier DataLoader
        batches = super().__iter__()
        # Not by multiprocessing.active_children(), which leaves out those that have ended already.
        self._workers |= frozenset(getattr(batches, "_workers", ()))
        return batches

    def _handle_lost_workers(self, error: Exception) -> None:
        """Continue without workers if one of them ended or could not start; raise otherwise."""
        # The broken connection may be noticed before the end of the process behind it, long before
        # it on a busy machine.
        limit = 30 if isinstance(error, ConnectionError | EOFError) else 0.5
        ended = wait([worker.sentinel for worker in self._workers], timeout=limit)
        for worker in self._workers:
            if worker.sentinel in ended:
                worker.join(limit)  # a process closes its files some time before it has a code
        codes = [worker.exitcode for worker in self._workers if worker.exitcode]
        if codes and codes[0] == -signal.SIGKILL:
            request_stop(signal.SIGCHLD)
            cause = "a loader worker was killed, as systems do when memory runs out"
        elif codes and codes[0] in (EXIT_NO_SPACE, -signal.SIGBUS):
            cause = (
                "loader workers cannot hand over their batches, as where /dev/shm is small (docker "
                "run --shm-size)"
            )
        elif codes:
            code = codes[0]
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise UserError(
                f"a loader worker ended with {name}; --num_workers 0 may show why"
            ) from error
        elif isinstance(error, OSError) and not self._workers:
            cause = f"no loader workers can be started ({one_line(str(error), 200)})"
        else:
            raise error
        self._lost_workers = True
        self._iterator = None  # ends the other workers
        print(f"{cause}; this process reads images itself now", file=sys.stderr, flush=True)


def _init_worker(worker_id: int) -> None:
    ignore_stop_signals()
    # By default a worker drops a batch that it cannot hand over, and the run waits for it for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_exit_worker)


def _exit_worker(error: Exception, batch: Any) -> None:
    write_stderr(f"loader worker: {one_line(str(error), 300)}")
    os._exit(EXIT_NO_SPACE)


def worker_count(args: argparse.Namespace) -> int:
    """Return how many workers a loader of this process has: --num_workers, at most one a core.

    Processes of the same machine share its cores, unless each may use its own alone, as under
    Slurm; each has at least one worker. All processes of the run call this together. The number
    changes nothing that is learned. Where the option was given and is not followed, that is said.
    """
    here = socket.gethostname(), _cores()
    all_processes = dist.all_gather(here)
    sharing = Counter(core for host, cores in all_processes if host == here[0] for core in cores)
    share = sum(1 / sharing[core] for core in here[1])
    count = min(args.num_workers, max(1, int(share + 1e-6)))
    if count < args.num_workers and "num_workers" in (getattr(args, "given", None) or ()):
        dist.print_main(
            f"--num_workers {args.num_workers}: more than there are cores, each process has {count}"
        )
    return count


def _cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def loader_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a `Loader` that are the same for every kind of data."""
    count = worker_count(args)
    return {
        "num_workers": count,
        "persistent_workers": count > 0,  # the epoch reaches them by shared memory
        "worker_init_fn": _init_worker,
        # Without a generator of its own, a loader draws its workers' seeds from the default one,
        # and dropout would depend on the number of loaders' iterations.
        "generator": torch.Generator().manual_seed(args.seed),
        "pin_memory": dist.pick_device(args.device).type == "cuda",
    }


def own_images(count: int, args: argparse.Namespace) -> range:
    """Return the validation images of this process: each image is on exactly one.

    DistributedSampler would repeat some, and count them twice.
    """
    return range(args.rank, count, args.world_size)


def check_batches(batches: BatchSampler, images: int, args: argparse.Namespace) -> None:
    """Raise a UserError if the training images do not fill a batch in each process."""
    if len(batches) == 0:
        raise UserError(
            f"{images} training images do not fill one batch of --batch_size "
            f"{args.batch_size} in each of {args.world_size} process(es)"
        )


def build_loaders(args: argparse.Namespace) -> tuple[Loader | None, Loader]:
    """Build the loaders of the training and the evaluated split; the first is None with args.eval.

    Each data set gets an attribute `classes`: those of `args`, or where args.num_classes is None
    those that the first split needs.

    Raises:
        UserError: data are missing or faulty, or do not fill a batch on each rank.
    """
    common = {"collate_fn": collate_fn, **loader_options(args)}
    datasets = []
    for image_set in splits_read(args):
        dataset = build_dataset(image_set, args)
        datasets.append(dataset)
        if args.num_classes is None:
            classes = classes_for(dataset.annotations)
            if classes.category_ids is not None:
                number_labels(dataset.annotations, classes.category_ids)
            args = with_options(args, **classes._asdict())
        dataset.classes = Classes(args.num_classes, args.category_ids)
    val = datasets[-1]
    loader_val = Loader(val, args.batch_size, sampler=own_images(len(val), args), **common)
    if args.eval:
        return None, loader_val

    train = datasets[0]
    sampler = DistributedSampler(train, args.world_size, args.rank, seed=args.seed)
    if args.group_by_shape:
        ratios = torch.from_numpy(train.annotations.aspect_ratios())
        batches = GroupedBatchSampler(sampler, args.batch_size, ratios)
    else:
        batches = BatchSampler(sampler, args.batch_size, drop_last=True)
    check_batches(batches, len(train), args)
    if own_parts(args.augment):
        train[0]  # what is wrong with an own transform shows now, before the model is built
    return Loader(train, batch_sampler=ResumableBatchSampler(batches), **common), loader_val
