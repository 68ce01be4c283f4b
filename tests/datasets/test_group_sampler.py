"""Batches by shape: every image once, the same number of batches everywhere, less padding."""

import json
from collections import Counter

import pytest
import torch
from torch.utils.data import BatchSampler, DistributedSampler

from datasets.loaders import SPAN, GroupedBatchSampler
from main import build_loaders
from tests.helpers.commands import MAIN, TINY_RUN, error_line, run_ok


def ratios_of(n: int) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5


def grouped(n, batch_size, world_size=1, rank=0, epoch=0, seed=0, ratios=None):
    sampler = DistributedSampler(range(n), world_size, rank, seed=seed)
    batches = GroupedBatchSampler(sampler, batch_size, ratios_of(n) if ratios is None else ratios)
    sampler.set_epoch(epoch)
    return batches


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("n", [5, 16, 17, 241, 1000])
def test_as_many_batches_as_without_and_every_image_once(n, batch_size, world_size):
    seen = Counter()
    for rank in range(world_size):
        batches = grouped(n, batch_size, world_size, rank)
        plain = BatchSampler(batches.sampler, batch_size, drop_last=True)
        drawn = list(batches)
        assert len(drawn) == len(batches) == len(list(plain))
        assert all(len(batch) == batch_size for batch in drawn)
        seen.update(index for batch in drawn for index in batch)
    used = len(drawn) * batch_size * world_size
    assert seen.total() == used and set(seen) <= set(range(n))
    if used <= n:
        assert max(seen.values(), default=1) == 1
    else:  # what DistributedSampler repeats, too
        assert len(seen) == n and seen.total() - n < max(world_size, 2)


def test_order_depends_on_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = list(grouped(300, 4, epoch=2, seed=7))
    torch.manual_seed(2)
    assert list(grouped(300, 4, epoch=2, seed=7)) == first
    for other in (grouped(300, 4, epoch=3, seed=7), grouped(300, 4, epoch=2, seed=8)):
        together = {frozenset(batch) for batch in other}
        assert len(together & {frozenset(batch) for batch in first}) < len(first) / 3
    batches = grouped(300, 4)
    assert list(batches) == list(batches)  # an epoch can be gone through again


def test_similar_images_meet_in_a_batch_and_in_a_step():
    n, batch_size, world_size = 4000, 4, 2
    ratios = ratios_of(n)
    ranks = [list(grouped(n, batch_size, world_size, rank)) for rank in range(world_size)]
    steps = [one + other for one, other in zip(*ranks, strict=True)]
    spread = torch.stack([ratios[step].max() - ratios[step].min() for step in steps]).mean()
    assert spread < 3 / SPAN  # of ratios spread evenly over a range of 1
    # Steps come in no order of shapes, and no process has the wide images.
    means = torch.stack([ratios[step].mean() for step in steps])
    early, late = means[: len(means) // 2].mean(), means[len(means) // 2 :].mean()
    assert abs(early - late) < 0.1
    assert 0.4 < (means[1:] > means[:-1]).double().mean() < 0.6
    first, second = (torch.stack([ratios[b].mean() for b in batches]) for batches in ranks)
    assert 0.4 < (first < second).double().mean() < 0.6


def test_every_image_is_as_often_left_out():
    """An incomplete batch must not always cost the widest images."""
    n, epochs = 10, 600
    ratios = torch.arange(n).double()
    seen = Counter(
        i for epoch in range(epochs) for batch in grouped(n, 3, epoch=epoch, ratios=ratios)
        for i in batch
    )  # fmt: skip
    assert seen.total() == 9 * epochs
    assert all(abs(seen[i] / epochs - 0.9) < 0.06 for i in range(n))


def test_training_draws_grouped_batches(varied_shapes, args):
    options = ["--coco_path", varied_shapes, "--image_size", "64", "--batch_size", "3",
               "--num_workers", "0", "--augment", "flip"]  # fmt: skip
    shares = []
    for more in ([], ["--group_by_shape"]):
        loader, _ = build_loaders(args(*options, *more))
        masks, ids = [], []
        for epoch in range(10):
            loader.batch_sampler.sampler.set_epoch(epoch)
            for samples, targets in loader:
                masks.append(samples.mask.flatten())
                ids += [target["image_id"].item() for target in targets]
        assert Counter(ids) == dict.fromkeys(range(1, 13), 10)
        shares.append(torch.cat(masks).double().mean().item())
    assert shares[1] < 0.7 * shares[0]


def test_a_run_and_a_file_without_sizes(varied_shapes, tmp_path):
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).symlink_to(varied_shapes / split)
        name = f"annotations/instances_{split}.json"
        content = json.loads((varied_shapes / name).read_text())
        del content["images"][4]["height"]
        (tmp_path / name).write_text(json.dumps(content))
    common = [MAIN, *TINY_RUN, "--epochs", "1", "--group_by_shape", "--batch_size", "4"]
    result = run_ok(*common, "--coco_path", varied_shapes, "--coco_eval", "pycocotools")
    assert "epoch 1/1  3/3" in result.stdout and result.stdout.count("Average Precision") == 6
    line = error_line(*common, "--coco_path", tmp_path)
    assert "instances_train2017.json: image 5 lacks its height and width" in line
