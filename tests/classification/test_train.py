"""Training of classifiers: whole runs, their checkpoints and logs, and going on with them."""

import argparse
import pathlib

import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler

import classification
from tests.classification.classifier_runs import draw_classes, run_here, signal_at_sample
from tests.helpers.runs import assert_same_run, read_log, result_of
from util.checkpoint import load_checkpoint
from util.errors import UserError
from util.signals import Stopped

# Everything random: augmentation, mixing, stochastic depth, dropout.
RANDOM = ["--epochs", "3", "--drop", "0.1", "--drop-path", "0.2", "--model-ema-decay", "0.9"]
PLAIN = [
    "--mixup", "0", "--cutmix", "0", "--aa", "none", "--reprob", "0", "--no-repeated-aug",
]  # fmt: skip


SHALLOW = ["--model-kwargs", "embed_dim=16", "depth=1", "num_heads=2", "patch_size=4"]


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    return draw_classes(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="session")
def whole_run(colours, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    run_here(colours, *RANDOM, "--output_dir", out)
    return out


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sample", [9, 47, 70])
def test_a_stopped_run_ends_as_one_that_was_not(
    colours, whole_run, tmp_path, monkeypatch, sample, workers
):
    """24 samples and 15 evaluated images an epoch: epoch 0, 1, and the evaluation of epoch 1."""
    with monkeypatch.context() as patch:
        signal_at_sample(patch, sample)
        with pytest.raises(Stopped):
            run_here(colours, *RANDOM, "--output_dir", tmp_path)
    stopped = load_checkpoint(str(tmp_path / "checkpoint.pth"))
    where = {9: (-1, 3), 47: (0, 2), 70: (1, 0)}
    assert (stopped["epoch"], stopped["step"]) == where[sample]
    again = [*RANDOM, "--output_dir", tmp_path, "--resume", "auto", "--num_workers", workers]
    run_here(colours, *again)
    assert_same_run(tmp_path, whole_run)


def test_seeds_make_other_runs(colours, whole_run, tmp_path):
    run_here(colours, *RANDOM, "--epochs", 1, "--seed", 1, "--output_dir", tmp_path)
    assert read_log(tmp_path)[0]["train_loss"] != read_log(whole_run)[0]["train_loss"]


def test_checkpoint_and_log_are_the_published_ones(whole_run):
    checkpoint, log = result_of(whole_run)
    assert list(log[0]) == [
        "train_lr", "train_loss", "test_loss", "test_acc1", "test_acc5", "epoch", "n_parameters",
    ]  # fmt: skip
    published = {"model", "optimizer", "lr_scheduler", "epoch", "model_ema", "args"}
    assert published <= checkpoint.keys() and checkpoint["epoch"] == 2
    args = checkpoint["args"]
    assert (args.batch_size, args.num_classes, args.weight_decay) == (4, 3, 0.05)
    assert checkpoint["model"].keys() == checkpoint["model_ema"].keys()
    assert checkpoint["classes"] == {0: "blue", 1: "green", 2: "red"}
    assert sum(value.numel() for value in checkpoint["model"].values()) == log[0]["n_parameters"]
    # timm's own scheduler goes on with it.
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=1)
    scheduler = CosineLRScheduler(optimizer, 300)
    scheduler.load_state_dict(checkpoint["lr_scheduler"])
    scheduler.step(1)
    assert optimizer.param_groups[0]["lr"] == log[2]["train_lr"]


def test_it_learns_and_keeps_the_best(colours, tmp_path, capsys):
    run_here(colours, *PLAIN, "--epochs", 5, "--lr", 0.6, "--output_dir", tmp_path)
    log = read_log(tmp_path)
    best = max(log, key=lambda row: row["test_acc1"])  # the first of equal ones
    assert best["test_acc1"] > 90 and log[-1]["train_loss"] < log[0]["train_loss"]
    said = f"Max accuracy: {best['test_acc1']:.2f}% of epoch {best['epoch'] + 1}/5\n"
    assert said in capsys.readouterr().out
    kept = tmp_path / "checkpoint_best.pth"
    assert load_checkpoint(str(kept))["epoch"] == best["epoch"]
    run_here(colours, "--eval", "--resume", kept)
    shown = capsys.readouterr().out
    numbers = f"Acc@1 {best['test_acc1']:.3f} Acc@5 100.000 loss {best['test_loss']:.3f}"
    assert f"eval  {numbers}  15 images\n" in shown


def test_gradient_checkpointing_changes_nothing_else(colours, whole_run, tmp_path, monkeypatch):
    calls, compute = [], classification.attention.checkpoint
    monkeypatch.setattr(
        classification.attention, "checkpoint", lambda *a, **o: calls.append(1) or compute(*a, **o)
    )
    run_here(colours, *RANDOM, "--gradient_checkpointing", "--output_dir", tmp_path)
    assert len(calls) == 3 * 6 * 2  # epochs, steps, blocks
    assert_same_run(tmp_path, whole_run)


@pytest.mark.nightly
def test_a_compiled_model_learns_the_same(colours, tmp_path):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for options in ([], ["--compile"]):
        out = tmp_path / str(len(options))
        words = [*PLAIN, "--drop-path", 0, "--epochs", 1, "--batch-size", 10, "--no-model-ema"]
        run_here(colours, *words, *SHALLOW, *options, "--output_dir", out)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    (plain, wanted), (compiled, found) = result_of(tmp_path / "0"), result_of(tmp_path / "1")
    assert plain["model"].keys() == compiled["model"].keys()
    for row, other in zip(wanted, found, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


def test_averaged_weights_are_evaluated_if_asked_for(colours, whole_run, tmp_path, capsys):
    checkpoint = load_checkpoint(str(whole_run / "checkpoint.pth"))
    checkpoint["model_ema"]["head.bias"] = torch.tensor([9.0, 0.0, 0.0])  # all is blue
    torch.save(checkpoint, tmp_path / "both.pth")
    torch.save({"model": checkpoint["model_ema"]}, tmp_path / "average.pth")
    shown = []
    for words in (["both.pth"], ["both.pth", "--eval-ema"], ["average.pth"]):
        run_here(colours, "--eval", "--resume", tmp_path / words[0], *words[1:])
        shown.append(capsys.readouterr().out.splitlines()[-1])
    assert f"loss {read_log(whole_run)[-1]['test_loss']:.3f}" in shown[0]
    assert shown[0] != shown[1] == shown[2]


def published_checkpoint(path, epoch: int) -> dict:
    """Write what the published code writes after `epoch`, with weights of ones in their average."""
    torch.manual_seed(0)
    model = timm.create_model(
        "deit_tiny_patch16_224", enc_rpe2d="rpe-1.9-product-ctx-1-k", num_classes=3, img_size=16,
        embed_dim=16, depth=2, num_heads=2, patch_size=4,
    )  # fmt: skip
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=("pos_embed", "cls_token"))
    rate = 0.1 * 4 / 512
    optimizer = torch.optim.AdamW(groups, lr=rate)
    scheduler = CosineLRScheduler(
        optimizer, 4, lr_min=1e-5, warmup_t=1, warmup_lr_init=1e-6, cycle_decay=0.1
    )
    for number in range(epoch + 1):
        for _ in range(6):
            model(torch.randn(4, 3, 16, 16)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step(number)
    args = argparse.Namespace(
        model="deit_tiny_patch16_224", batch_size=4, epochs=4, lr=rate, weight_decay=0.05,
        warmup_epochs=1, opt="adamw", opt_betas=None, clip_grad=None, world_size=1, seed=0,
        color_jitter=0.4, aa="rand-m9-mstd0.5-inc1", output_dir=pathlib.PosixPath("/old/out"),
        repeated_aug=True, cutmix_minmax=None, distributed=False,
    )  # fmt: skip
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": epoch,
        "model_ema": {name: torch.ones_like(value) for name, value in model.state_dict().items()},
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5,
                   "growth_interval": 2000, "_growth_tracker": 12},
        "args": args,
    }  # fmt: skip
    torch.save(content, path)
    return content


def test_a_published_run_goes_on(colours, tmp_path, capsys):
    """With a rate of about 0 weights stay, and their average nears them by a known factor."""
    before = published_checkpoint(tmp_path / "old.pth", epoch=2)
    still = ["--lr", 0, "--warmup-lr", 0, "--min-lr", 0, "--weight-decay", 0]
    run_here(
        colours, "--resume", tmp_path / "old.pth", "--epochs", 4, *still, "--model-ema-decay", 0.6,
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    after = load_checkpoint(str(tmp_path / "out" / "checkpoint.pth"))
    assert after["epoch"] == 3 and after["ema_updates"] == 18 + 6
    for name, value in before["model"].items():
        assert torch.equal(after["model"][name], value)
        # The first six updates of a new average would have other factors: (1 + n) / (10 + n).
        wanted = value + 0.6**6 * (1 - value)
        torch.testing.assert_close(after["model_ema"][name], wanted)
    steps = {state["step"].item() for state in after["optimizer"]["state"].values()}
    assert steps == {24}
    assert "--weight_decay 0.05 -> 0" in capsys.readouterr().out


def test_a_published_run_goes_on_at_its_rate(colours, tmp_path, capsys):
    saved = published_checkpoint(tmp_path / "old.pth", epoch=2)
    rate = saved["optimizer"]["param_groups"][0]["lr"]
    run_here(
        colours, "--resume", tmp_path / "old.pth", "--epochs", 4, "--output_dir", tmp_path / "out"
    )
    assert read_log(tmp_path / "out")[0]["train_lr"] == rate
    assert "changed since" not in [
        line for line in capsys.readouterr().out.splitlines() if "--lr " in line
    ]


def test_training_in_evaluation_mode_is_the_published_fine_tuning(colours, whole_run, tmp_path):
    """Without mixing and augmentation nothing is random then but the order of images."""
    losses = []
    for options in (["--drop", 0.0], ["--drop", 0.5], ["--drop", 0.5, "--finetune-drop"]):
        out = tmp_path / str(len(losses))
        run_here(
            colours, *PLAIN, "--finetune", whole_run / "checkpoint.pth", "--epochs", 1,
            "--output_dir", out, *options,
        )  # fmt: skip
        losses.append(read_log(out)[0]["train_loss"])
    assert losses[0] == losses[1] != losses[2]


def test_distillation_from_a_model_of_timm(colours, tmp_path, monkeypatch):
    """It goes on to the bit, and a teacher that does not fit leaves an earlier run as it was."""
    teacher = timm.create_model("test_resnet", num_classes=3)
    torch.save({"model": teacher.state_dict()}, tmp_path / "teacher.pth")
    options = [
        "--model", "deit_tiny_distilled_patch16_224", "--epochs", 2, "--distillation-type", "hard",
        "--teacher-model", "test_resnet", "--teacher-path", tmp_path / "teacher.pth",
    ]  # fmt: skip
    whole, parts = tmp_path / "whole", ["--output_dir", tmp_path / "parts"]
    run_here(colours, *options, "--output_dir", whole)
    assert "head_dist.weight" in load_checkpoint(str(whole / "checkpoint.pth"))["model"]
    with monkeypatch.context() as once, pytest.raises(Stopped):
        signal_at_sample(once, 9)
        run_here(colours, *options, *parts)
    run_here(colours, *options, *parts, "--resume", "auto")
    assert_same_run(whole, tmp_path / "parts")

    torch.save({"model": {"w": torch.zeros(1)}}, tmp_path / "teacher.pth")
    before = sorted(tmp_path.joinpath("parts").iterdir())
    with pytest.raises(UserError, match="--teacher-path"):
        run_here(colours, *options, *parts)
    assert sorted(tmp_path.joinpath("parts").iterdir()) == before


def test_a_file_of_other_classes_is_not_evaluated(colours, tmp_path):
    model = timm.create_model(
        "deit_tiny_patch16_224", enc_rpe2d="rpe-1.9-product-ctx-1-k", num_classes=10, img_size=16,
        embed_dim=16, depth=2, num_heads=2, patch_size=4,
    )  # fmt: skip
    torch.save({"model": model.state_dict()}, tmp_path / "ten.pth")
    with pytest.raises(UserError, match=r"10 classes there, 3 here.*has other classes"):
        run_here(colours, "--eval", "--resume", tmp_path / "ten.pth")
    assert "deit_tiny_patch16_224" in classification.MODELS
