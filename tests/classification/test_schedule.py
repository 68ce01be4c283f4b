"""The published schedule and groups of parameters."""

import math

import pytest
import timm
import torch

from classification.task import EpochSchedule, build_optimizer, load_schedule
from tests.classification.classifier_runs import alone, parse
from training.checkpoint_content import check_training

# Seen with the published code, for 1024 images a step: epochs 0 to 7.
PUBLISHED = [1e-6, 1e-6, 2.008e-4, 4.006e-4, 6.004e-4, 8.002e-4, 9.99322e-4, 9.99023e-4]


def schedule_of(*options, epochs: int = 0):
    args = alone(parse("data", "--batch-size", 128, "--warmup-epochs", 5, *options))
    if "--lr" not in options:
        args.lr = 5e-4
    args.world_size = 8
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return EpochSchedule(optimizer, args, epochs), optimizer.param_groups[0]


def test_the_published_rates():
    schedule, group = schedule_of()
    rates = []
    for _ in range(300):
        rates.append(group["lr"])
        schedule.step()
    assert rates[:8] == pytest.approx(PUBLISHED, rel=1e-5)
    assert rates[0] == rates[1] == 1e-6
    assert rates[299] == pytest.approx(1.0109e-5, rel=1e-4)
    for epoch in range(6, 300):  # the formula, an epoch late
        cosine = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * (epoch - 1) / 300)) / 2
        assert rates[epoch] == pytest.approx(cosine, rel=1e-12)


@pytest.mark.parametrize("epochs", [0, 1, 2, 6, 250])
@pytest.mark.parametrize("kind", ["cosine", "tanh", "step", "poly"])
def test_a_schedule_begins_at_any_epoch(epochs, kind):
    options = ["--sched", kind, "--lr-noise", "0.01", "0.9", "--lr", "1e-3"]
    whole, group = schedule_of(*options)
    for _ in range(epochs):
        whole.step()
    late, later_group = schedule_of(*options, epochs=epochs)
    assert later_group["lr"] == group["lr"]
    for _ in range(3):
        whole.step()
        late.step()
        assert later_group["lr"] == group["lr"]


def model_and_optimizer(*options):
    model = timm.create_model(
        "deit_tiny_distilled_patch16_224", enc_rpe2d="rpe-1.9-product-ctx-1-qk", depth=1,
        embed_dim=8, num_heads=1, num_classes=2,
    )  # fmt: skip
    args = alone(parse("data", "--resume", "old.pth", *options))
    return model, args, build_optimizer(model, args)


def test_what_is_decayed_is_as_published():
    model, _, optimizer = model_and_optimizer("--weight-decay", 0.3)
    names = {parameter: name for name, parameter in model.named_parameters()}
    plain, decayed = optimizer.param_groups
    assert (plain["weight_decay"], decayed["weight_decay"]) == (0.0, 0.3)
    assert {names[p] for p in decayed["params"]} == {
        "dist_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight",
        "blocks.0.attn.proj.weight", "blocks.0.attn.rpe_q.lookup_table_weight",
        "blocks.0.attn.rpe_k.lookup_table_weight", "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight", "head.weight", "head_dist.weight",
    }  # fmt: skip
    assert {"pos_embed", "cls_token", "norm.weight", "head.bias"} <= {
        names[p] for p in plain["params"]
    }
    assert len(plain["params"]) + len(decayed["params"]) == len(names)


def test_changed_options_give_the_rates_of_a_run_that_had_them_before():
    model, args, optimizer = model_and_optimizer("--lr", 0.1)
    schedule = EpochSchedule(optimizer, args)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for _ in range(4):
        schedule.step()
    checkpoint = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(), "epoch": 3,
    }  # fmt: skip
    model, new, other = model_and_optimizer(
        "--lr", 0.4, "--opt-betas", 0.5, 0.6, "--weight-decay", 0.2
    )
    late = EpochSchedule(other, new)
    before = load_schedule(other, late, model, checkpoint, new)
    assert before == {"lr": 0.1, "weight_decay": 0.05, "opt_eps": 1e-8}
    wanted = EpochSchedule(model_and_optimizer("--lr", 0.4)[2], new, epochs=4)
    assert late.state_dict() == wanted.state_dict()
    for group, decay in zip(other.param_groups, (0, 0.2), strict=True):
        assert group["weight_decay"] == decay and group["betas"] == (0.5, 0.6)
        assert group["initial_lr"] == 0.4 * 4 / 512
    late.step()
    wanted.step()
    assert other.param_groups[0]["lr"] == other.param_groups[1]["lr"]
    assert checkpoint["ema_updates"] == 1


@pytest.mark.parametrize(
    ("entry", "value"),
    [("lr_scheduler", {"base_values": torch.zeros(2)}), ("lr_scheduler", [1]), ("epoch", -2)],
)
def test_a_hostile_schedule_is_refused(entry, value):
    from classification.task import TASK
    from util.errors import UserError

    model, args, optimizer = model_and_optimizer()
    schedule = EpochSchedule(optimizer, args)
    checkpoint = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(), "epoch": 0,
    }  # fmt: skip
    check_training(checkpoint, "old.pth", TASK.schedule, TASK.param_groups)
    with pytest.raises(UserError, match=f"old.pth: training cannot be resumed from it: {entry}"):
        check_training({**checkpoint, entry: value}, "old.pth", TASK.schedule, TASK.param_groups)
