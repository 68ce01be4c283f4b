"""--opt: timm's optimizers, their groups, their options, and going on with them to the bit."""

import pytest
import timm
import torch
from timm.optim import list_optimizers

from classification.task import TASK, EpochSchedule, build_optimizer, load_schedule
from tests.classification.classifier_runs import alone, draw_classes, parse, run_here
from tests.helpers.runs import assert_same_run
from training.checkpoint_content import check_training
from util.checkpoint import load_checkpoint
from util.errors import UserError

# One of each kind of state: none, moments, counts in groups, factors, several kinds of tensors.
SOME = ("sgd", "momentum", "adam", "adan", "lamb", "adafactor", "muon", "nadamlegacy", "madgrad")
NOT_HERE = ("adahessian", "kron", "bnb", "fused")
OTHERS = [
    pytest.param(name, marks=() if name in SOME else pytest.mark.nightly)
    for name in list_optimizers()
    if not name.startswith(NOT_HERE)
]


def model_and_optimizer(*options):
    torch.manual_seed(0)
    model = timm.create_model(
        "deit_tiny_patch16_224", enc_rpe2d="rpe-1.9-product-ctx-1-k", depth=1, embed_dim=16,
        num_heads=2, num_classes=3, img_size=32,
    )  # fmt: skip
    args = alone(parse("data", "--resume", "old.pth", *options))
    return model, args, build_optimizer(model, args)


def train(model, optimizer, steps: int, generator: torch.Generator) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 32, 32, generator=generator)).square().mean().backward()
        optimizer.step()


def checkpoint_of(model, optimizer, schedule, args, epoch: int = 0) -> dict:
    return {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch,
        "lr_scheduler": schedule.state_dict(), "args": args,
    }  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_each_goes_on_to_the_bit(name, tmp_path):
    model, args, optimizer = model_and_optimizer("--opt", name)
    schedule, generator = EpochSchedule(optimizer, args), torch.Generator().manual_seed(1)
    train(model, optimizer, 3, generator)
    schedule.step()
    content = checkpoint_of(model, optimizer, schedule, args)
    torch.save(content, tmp_path / "old.pth")
    place = generator.get_state()
    train(model, optimizer, 3, generator)

    again, args, late = model_and_optimizer("--opt", name)
    start = [value.clone() for value in again.parameters()]
    content = load_checkpoint(str(tmp_path / "old.pth"))
    check_training(content, "old.pth", TASK.schedule, TASK.param_groups, TASK.optimizer(args))
    again.load_state_dict(content["model"])
    load_schedule(late, EpochSchedule(late, args), again, content, args)
    generator.set_state(place)
    train(again, late, 3, generator)
    for value, wanted in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(value, wanted) and value.isfinite().all()
    assert any(not torch.equal(value, first) for value, first in zip(again.parameters(), start))


@pytest.mark.parametrize(("name", "count"), [("adamw", 3), ("lamb", 3), ("sgd", 6)])
def test_averages_of_published_files_are_not_begun_again(name, count):
    """They have no count; an optimizer's steps stand in, or one for each epoch."""
    model, args, optimizer = model_and_optimizer("--opt", name)
    schedule = EpochSchedule(optimizer, args)
    train(model, optimizer, 3, torch.Generator())
    content = checkpoint_of(model, optimizer, schedule, args, epoch=5)
    load_schedule(optimizer, schedule, model, content, args)
    assert content["ema_updates"] == count


def test_another_batch_size_is_no_other_rate():
    model, args, optimizer = model_and_optimizer("--opt", "adam", "--lr", 0.3)
    schedule = EpochSchedule(optimizer, args)
    train(model, optimizer, 1, torch.Generator())
    content = checkpoint_of(model, optimizer, schedule, args)
    model, args, late = model_and_optimizer("--opt", "adam", "--lr", 0.3, "--batch-size", 16)
    assert load_schedule(late, EpochSchedule(late, args), model, content, args)["lr"] == 0.3
    assert late.param_groups[0]["initial_lr"] == 0.3 * 16 / 512


def test_sgd_by_hand():
    """Momentum, and decay of tables and matrices alone, as torch.optim.SGD writes them down."""
    options = ["--opt", "momentum", "--momentum", 0.7, "--weight-decay", 0.3, "--lr", 2.0]
    model, args, optimizer = model_and_optimizer(*options)
    rate = 2.0 * args.batch_size / 512
    values = {name: value.detach().clone() for name, value in model.named_parameters()}
    speeds = {name: torch.zeros_like(value) for name, value in values.items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        train(model, optimizer, 1, generator)
        for name, parameter in model.named_parameters():
            plain = parameter.ndim == 1 or name in ("pos_embed", "cls_token")
            gradient = parameter.grad + (0 if plain else 0.3) * values[name]
            speeds[name] = 0.7 * speeds[name] + gradient
            values[name] -= rate * speeds[name]
            torch.testing.assert_close(parameter, values[name])


def test_options_of_the_run_count():
    """Those of a checkpoint are named where they differ; betas as given, or the optimizer's own."""
    model, args, optimizer = model_and_optimizer("--opt", "adam", "--opt-betas", 0.5, 0.6)
    schedule = EpochSchedule(optimizer, args)
    train(model, optimizer, 1, torch.Generator())
    content = checkpoint_of(model, optimizer, schedule, args)
    assert [group["betas"] for group in optimizer.param_groups] == [(0.5, 0.6)] * 2
    model, args, late = model_and_optimizer("--opt", "adam", "--weight-decay", 0.2, "--lr", 0.4)
    schedule = EpochSchedule(late, args)
    before = load_schedule(late, schedule, model, content, args)
    assert before == {"lr": 0.1, "weight_decay": 0.05, "opt_eps": 1e-8}
    assert [group["weight_decay"] for group in late.param_groups] == [0, 0.2]
    assert [group["betas"] for group in late.param_groups] == [(0.9, 0.999)] * 2
    assert late.param_groups[0]["initial_lr"] == 0.4 * 4 / 512
    model, args, late = model_and_optimizer("--opt", "sgd")
    with pytest.raises(UserError, match=r"old\.pth: was trained with --opt adam, not sgd"):
        load_schedule(late, EpochSchedule(late, args), model, content, args)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"momentum_buffer": torch.full((2,), float("nan"))}, "not finite"),
        ({"momentum_buffer": "fast"}, "is 'fast', not a number"),
        ({"step": float("inf")}, "is inf, not a finite number"),
    ],
)
def test_a_hostile_state_is_refused(state, says):
    _, args, optimizer = model_and_optimizer("--opt", "sgd")
    schedule = EpochSchedule(optimizer, args)
    optimizer = optimizer.state_dict() | {"state": {0: state}}
    content = {"optimizer": optimizer, "lr_scheduler": schedule.state_dict(), "epoch": 0}
    with pytest.raises(UserError, match=f"training cannot be resumed from it: .*{says}"):
        check_training(content, "old.pth", TASK.schedule, TASK.param_groups, TASK.optimizer(args))


def test_a_run_goes_on(tmp_path, capsys):
    colours = draw_classes(tmp_path / "data")
    options = ["--opt", "lamb", "--momentum", 0.8, "--checkpoint_every", 0]
    run_here(colours, *options, "--epochs", 2, "--output_dir", tmp_path / "whole")
    assert "--momentum changes nothing: lamb takes none" in capsys.readouterr().out
    run_here(colours, *options, "--epochs", 1, "--output_dir", tmp_path / "out")
    run_here(colours, *options, "--epochs", 2, "--output_dir", tmp_path / "out", "--resume", "auto")
    assert_same_run(tmp_path / "out", tmp_path / "whole")
