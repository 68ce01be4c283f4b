"""Training against a plain loop with PyTorch's own parts, in one process and in two."""

import argparse
import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import BatchSampler, Dataset, DistributedSampler

from datasets.loaders import Loader, ResumableBatchSampler
from detection_task import DETECTION, build_optimizer
from main import train
from tests.helpers.toy_training import CPU, SquaredError
from tests.helpers.two_processes import in_two_processes
from training.amp import Precision
from training.ema import WeightAverage
from training.output_dir import OutputDir
from training.state import TrainState
from util.misc import collate_fn

OPTIONS = [
    "--epochs", "5", "--lr_drop", "2", "--lr", "0.03", "--lr_backbone", "0.007", "--batch_size",
    "2", "--weight_decay", "0.2", "--backbone_weights", "none", "--clip_max_norm", "20",
]  # fmt: skip
IMAGES = 7


class Toy(nn.Module):
    """Seven numbers from the mean colour of an image; batch norm if wanted."""

    def __init__(self, batch_norm: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Linear(3, 5)
        self.norm = nn.BatchNorm1d(5) if batch_norm else nn.Identity()
        self.head = nn.Linear(5, 7)

    def forward(self, samples):
        return self.head(self.norm(self.backbone(samples.tensors.mean((2, 3)))).tanh())


class ToyImages(Dataset):
    """Random images, others in each epoch."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int):
        random = torch.Generator().manual_seed(100 * self.epoch + index)
        wanted = torch.full((7,), index / 2)
        image = torch.rand(3, 4, 4, generator=random)
        return image, {"image_id": torch.tensor(index), "wanted": wanted}


def batches_of(epoch: int) -> list:
    """Return batches of two images, in the order of PyTorch's sampler."""
    images = ToyImages()
    images.set_epoch(epoch)
    sampler = DistributedSampler(images, 1, 0, seed=42)
    sampler.set_epoch(epoch)
    order = list(sampler)
    return [[images[i] for i in order[at : at + 2]] for at in range(0, IMAGES - 1, 2)]


def trained(args: argparse.Namespace, batch_norm: bool = False) -> tuple[TrainState, list[dict]]:
    """main.train on the toy; the rows of its log."""
    model = Toy(batch_norm)
    images = ToyImages()
    sampler = DistributedSampler(images, args.world_size, args.rank, seed=42)
    batches = ResumableBatchSampler(BatchSampler(sampler, args.batch_size, drop_last=True))
    loader = Loader(images, batch_sampler=batches, collate_fn=collate_fn)
    optimizer = build_optimizer(model, args)
    average = WeightAverage(model, args.ema) if args.ema else None
    schedule = StepLR(optimizer, args.lr_drop)
    precision = Precision("off", CPU)
    state = TrainState(DETECTION, model, optimizer, schedule, precision, args, average=average)
    train(state, SquaredError(), loader, OutputDir(""), lambda epoch, hook, run: {}, 1)
    return state, state.log


def test_training_is_a_plain_loop(args):
    """Learning rates of two groups, their drops, decay, clipping, images of each epoch, means."""
    state, log = trained(args(*OPTIONS, "--ema", "0.9"))

    model, criterion = Toy(), SquaredError()
    groups = [
        {"params": model.head.parameters(), "lr": 0.03},
        {"params": model.backbone.parameters(), "lr": 0.007},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.2)
    average, updates, clipped = None, 0, 0
    for epoch in range(5):
        drop = 0.1 ** (epoch // 2)
        groups_now = optimizer.param_groups
        groups_now[0]["lr"], groups_now[1]["lr"] = 0.03 * drop, 0.007 * drop
        losses = []
        for batch in batches_of(epoch):
            samples, targets = collate_fn(batch)
            loss = 2.0 * criterion(model(samples), targets)["loss_square"]
            model.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 20)
            clipped += norm > 20
            optimizer.step()
            losses.append(loss.item())
            now = copy.deepcopy(model.state_dict())
            decay = min(0.9, (1 + updates) / (10 + updates)) if updates else 0
            average = now if average is None else {
                name: decay * average[name] + (1 - decay) * value for name, value in now.items()
            }  # fmt: skip
            updates += 1
        row = log[epoch]
        assert row["epoch"] == epoch
        assert row["train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        assert row["train_loss_square_unscaled"] == pytest.approx(row["train_loss"] / 2)
        assert row["train_lr"] == pytest.approx(0.03 * drop, rel=1e-12)
    assert 4 < clipped < 11
    for name, value in model.state_dict().items():
        torch.testing.assert_close(state.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
        found = state.average.module.state_dict()[name]
        torch.testing.assert_close(found, average[name], rtol=1e-4, atol=1e-5)


def test_the_learning_rate_is_logged_as_it_is(args):
    """Not as what float32 makes of it, nor what a mean does."""
    _, log = trained(args(*OPTIONS, "--lr", "3e-5", "--lr_drop", "9"))
    assert [row["train_lr"] for row in log] == [3e-5] * 5


def train_as(rank: int, args: argparse.Namespace) -> dict:
    args.rank, args.world_size, args.distributed = rank, 2, True
    state, log = trained(args, batch_norm=True)
    return {
        "model": state.model.state_dict(), "average": state.average.module.state_dict(),
        "loss": [row["train_loss"] for row in log],
    }  # fmt: skip


def test_processes_end_with_one_model_and_one_log(args, tmp_path):
    """The statistics of batch norm, too, which each process has from images of its own."""
    one, other = in_two_processes(train_as, tmp_path, args(*OPTIONS, "--ema", "0.5"))
    for kind in ("model", "average"):
        assert one[kind]["norm.running_mean"].abs().sum() > 0
        for name, value in one[kind].items():
            assert torch.equal(other[kind][name], value), (kind, name)
    assert one["loss"] == other["loss"]


@pytest.mark.parametrize("done", range(9))
def test_changed_options_give_the_rates_of_a_run_that_had_them_before(args, done):
    """After any number of epochs; the rate of epoch e is lr * 0.1 ** (e // lr_drop)."""

    def state_of(*options):
        model = Toy()
        parsed = args(*OPTIONS, *options)
        optimizer = build_optimizer(model, parsed)
        schedule = StepLR(optimizer, parsed.lr_drop)
        return TrainState(DETECTION, model, optimizer, schedule, Precision("off", CPU), parsed)

    before = state_of()
    for parameter in before.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for epoch in range(done):
        before.optimizer.step()
        before.lr_scheduler.step()
        before.complete_epoch({"epoch": epoch})
        before.finish_evaluation({"epoch": epoch})
    checkpoint = copy.deepcopy(before.state_dict())
    after = state_of("--lr", "0.5", "--lr_backbone", "0.25", "--lr_drop", "3", "--epochs", "20")
    after.load_state_dict(checkpoint, steps_per_epoch=1)
    for epoch in range(done, 12):
        rates = [group["lr"] for group in after.optimizer.param_groups]
        drop = 0.1 ** (epoch // 3)
        assert rates == pytest.approx([0.5 * drop, 0.25 * drop])
        for parameter in after.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        after.optimizer.step()
        after.lr_scheduler.step()
