"""Batches of images of similar shape, so that less padding is computed."""

from collections.abc import Iterator

import torch
from torch.utils.data import BatchSampler, DistributedSampler

SPAN = 64  # steps that exchange images; more would pad less, and mix less from epoch to epoch


class GroupedBatchSampler(BatchSampler):
    """As BatchSampler(sampler, batch_size, drop_last=True), but similar images meet.

    An epoch has the same number of batches on each process as without grouping, and every image
    once, up to what DistributedSampler repeats and an incomplete last batch leaves out, which are
    random images. A random order is cut into spans of SPAN steps; a span's images are sorted by
    aspect ratio, and its steps (one batch for each process) are cut from that. So the batches of
    one step have similar shapes, too, and processes wait less for each other. Then all steps of
    the epoch are shuffled.

    The order depends on the sampler's seed and epoch alone.

    Args:
        sampler: says how many images and processes there are, its own order is not used.
        batch_size: images of a batch.
        ratios: (n,) any float dtype, width over height of each image.
    """

    def __init__(self, sampler: DistributedSampler, batch_size: int, ratios: torch.Tensor):
        super().__init__(sampler, batch_size, drop_last=True)
        self.ratios = ratios

    def __iter__(self) -> Iterator[list[int]]:
        sampler, steps = self.sampler, len(self)
        generator = torch.Generator().manual_seed(sampler.seed + sampler.epoch)
        order = torch.randperm(len(self.ratios), generator=generator)
        # As DistributedSampler: the first images again, until each process has as many.
        order = order.repeat(-(-sampler.total_size // len(order)))[: sampler.total_size]
        step_size = sampler.num_replicas * self.batch_size
        spans = order[: steps * step_size].split(SPAN * step_size)
        # Stable: images of equal ratio keep their random order.
        spans = [span[self.ratios[span].argsort(stable=True)] for span in spans]
        batches = torch.cat(spans).view(steps, sampler.num_replicas, self.batch_size)
        for step in torch.randperm(steps, generator=generator):
            ranks = torch.randperm(sampler.num_replicas, generator=generator)
            yield batches[step, ranks[sampler.rank]].tolist()
