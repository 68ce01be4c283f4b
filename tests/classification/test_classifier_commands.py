"""classification/main.py as it is typed: errors of one line, several processes, signals, kills."""

import os
import re
import signal
import subprocess
import sys

import pytest
import timm
import torch

from tests.classification.classifier_runs import COMMAND, TINY, draw_classes, parse, run_here
from tests.helpers import forks
from tests.helpers.commands import QUIET, ROOT, error_line, free_port, run_ok
from tests.helpers.runs import assert_same_run, read_log, signal_all, wait_for
from util.checkpoint import load_checkpoint
from util.errors import UserError

EPOCHS = ["--epochs", "3", "--checkpoint_every", "0.0001"]


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    return draw_classes(tmp_path_factory.mktemp("colours"))


def start(*words: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, COMMAND, *TINY, *map(str, words)], cwd=ROOT,
        env={**os.environ, **QUIET}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=forks.default_signals,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--batch-size", 3], "--batch-size 3 must be even"),
        (["--batch_size", 3, "--mixup", 0], "must be even, mixup mixes pairs"),
        (["--data-path", "/nowhere"], "--data-path /nowhere: no such folder"),
        (["--data-set", "INAT"], "INAT is not read here"),
        (["--model", "nothing"], "--model nothing: no such model; some are deit_tiny"),
        (
            [
                "--model",
                "deit_small_patch16_224_ctx_product_50_shared_k",
                "--enc_rpe2d",
                "rpe-2.0-product-ctx-1-k",
            ],
            "has the encoding rpe-1.9",
        ),
        (["--model", "test_vit"], "--enc_rpe2d: test_vit takes none"),
        (["--model-kwargs", "depth"], "depth: not of the form name=value"),
        (["--model-kwargs", "nothing=1"], "cannot be created .*nothing"),
        (["--cutmix-minmax", 0.8, 0.2], "--cutmix-minmax takes two shares"),
        (["--opt-betas", 0.9], "--opt-betas takes 2 numbers below 1 with --opt adamw"),
        (["--opt", "adan", "--opt-betas", 0.9, 0.9], "--opt-betas takes 3 numbers"),
        (["--opt", "best"], "--opt best: timm has no such optimizer; it has .*, adamw, .*, sgd"),
        (["--opt", "adahessian"], "--opt adahessian cannot be used: .* gradient of the gradient"),
        (["--opt", "kronw"], "--opt kronw cannot be used: it draws random numbers"),
        (["--opt", "fusedsgd"], "--opt fusedsgd: cannot be made with these options .*CUDA"),
        (["--num-classes", 2], "--num-classes 2 are fewer than the 3 classes"),
        (["--resume", "auto"], "--resume auto needs an --output_dir"),
        (["--resume", "none.pth"], "--resume none.pth: no such file"),
        (["--finetune", "none.pth"], "--finetune none.pth: no such file"),
        (["--finetune", "a.pth", "--eval"], "no such file"),
        (["--distillation-type", "soft"], "needs a model with a distillation token"),
        (["--eval-ema", "--no-model-ema"], "--eval-ema needs averaged weights"),
        (["--eval", "--eval-ema"], "--eval-ema evaluates the averaged weights"),
    ],
)
def test_options_that_cannot_be(colours, options, says):
    with pytest.raises(UserError, match=says) as error:
        run_here(colours, *options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"optimizer": {"state": {}, "param_groups": []}}, "its optimizer trained other"),
        ({"epoch": "3"}, "training cannot be resumed from it: epoch is '3'"),
        ({"lr_scheduler": None}, "lr_scheduler is None, not a dictionary"),
        ({"model_ema": [1]}, "not a classifier's checkpoint: model_ema is a list"),
        ({"model": None}, "not a classifier's checkpoint, it has no 'model'"),
        ({"classes": {1: "red"}}, "its classes are not numbered from 0"),
        ({"classes": {0: "blue", 1: "green", 2: "pink"}}, "1 of its classes are not among the 3"),
        ({"args": "epochs=3"}, "its 'args' are 'epochs=3'"),
        ({"version": "999.0"}, "made by version 999.0"),
        ({"ema_updates": -1}, "ema_updates is -1"),
    ],
)
def test_hostile_checkpoints(one_epoch, colours, tmp_path, change, says):
    content = load_checkpoint(str(one_epoch / "checkpoint.pth"))
    torch.save({**content, **change}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=says):
        run_here(colours, "--resume", tmp_path / "bad.pth", "--epochs", 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [("mixup", "high"), ("epochs", -1), ("aa", None), ("opt_betas", ["a"]), ("eval", 1)],
)
def test_hostile_options(one_epoch, colours, tmp_path, name, value):
    content = load_checkpoint(str(one_epoch / "checkpoint.pth"))
    setattr(content["args"], name, value)
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=f"its options are not those of this version: .*{name}"):
        run_here(colours, "--resume", tmp_path / "bad.pth", "--epochs", 2)


@pytest.fixture(scope="session")
def one_epoch(colours, tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    run_here(colours, "--epochs", 1, "--output_dir", out)
    return out


def test_another_encoding_of_the_same_shape_is_refused(one_epoch, colours):
    """num_heads changes no shape either; tables of 7 x 7 buckets fit rpe-1.9 alone."""
    words = ["embed_dim=16", "depth=2", "num_heads=4", "patch_size=4"]
    with pytest.raises(UserError, match=r"is of --model .*num_heads=2.*num_heads=4"):
        run_here(
            colours, "--eval", "--resume", one_epoch / "checkpoint.pth", "--model-kwargs", *words
        )


def test_without_absolute_positions(colours, tmp_path):
    """timm takes None for an option that is not given: none has to reach it as a word."""
    words = ["--model-kwargs", "embed_dim=16", "depth=1", "num_heads=2", "patch_size=4"]
    run_here(colours, "--epochs", 1, "--output_dir", tmp_path, *words, "pos_embed=none")
    path = tmp_path / "checkpoint.pth"
    saved = torch.load(path, weights_only=False)["model"]
    assert "cls_token" in saved and "pos_embed" not in saved
    with pytest.raises(UserError, match="has no absolute positions, the model has absolute"):
        run_here(colours, "--eval", "--resume", path, *words)
    run_here(colours, "--eval", "--resume", path, *words, "pos_embed=none")


def test_published_names_of_options():
    """Both ways of writing them, and the published defaults."""
    args = parse(
        "data", "--batch_size", 6, "--weight-decay", 0.1, "--num-workers", 3, "--no-pin-mem"
    )
    assert (args.batch_size, args.weight_decay, args.num_workers, args.pin_mem) == (
        6,
        0.1,
        3,
        False,
    )
    from classification.arguments import get_args_parser

    defaults = vars(get_args_parser().parse_args([]))
    published = {
        "batch_size": 64, "epochs": 300, "model": "deit_base_patch16_224", "input_size": 224,
        "drop": 0.0, "drop_path": 0.1, "model_ema": True, "model_ema_decay": 0.99996,
        "opt": "adamw", "opt_eps": 1e-8, "opt_betas": None, "clip_grad": None, "lr": 5e-4,
        "weight_decay": 0.05, "sched": "cosine", "warmup_lr": 1e-6, "min_lr": 1e-5,
        "warmup_epochs": 5, "color_jitter": 0.4, "aa": "rand-m9-mstd0.5-inc1", "smoothing": 0.1,
        "train_interpolation": "bicubic", "repeated_aug": True, "reprob": 0.25, "remode": "pixel",
        "recount": 1, "mixup": 0.8, "cutmix": 1.0, "cutmix_minmax": None, "mixup_prob": 1.0,
        "mixup_switch_prob": 0.5, "mixup_mode": "batch", "teacher_model": "regnety_160",
        "distillation_type": "none", "distillation_alpha": 0.5, "distillation_tau": 1.0,
        "finetune": "", "data_set": "IMNET", "output_dir": "", "seed": 0, "resume": "",
        "start_epoch": 0, "eval": False, "num_workers": 10, "world_size": 1, "dist_url": "env://",
    }  # fmt: skip
    assert {name: defaults[name] for name in published} == published


def test_options_without_effect_say_so(colours, capsys):
    run_here(colours, "--eval", "--momentum", 0.8, "--dist-eval")
    shown = capsys.readouterr().out
    assert "--momentum changes nothing: adamw takes none" in shown
    assert "--dist-eval changes nothing" in shown and "pin-mem" not in shown


@pytest.mark.slow
def test_the_published_command_from_its_folder(colours, tmp_path):
    """Two processes by the old launcher train, and evaluate as one does."""
    run_ok(
        "-m", "torch.distributed.launch", "--nproc_per_node=2", f"--master_port={free_port()}",
        "--use_env", "main.py", *TINY, "--epochs", 2, "--data-path", colours, "--output_dir",
        tmp_path, cwd=ROOT / "classification",
    )  # fmt: skip
    last = read_log(tmp_path)[-1]
    checkpoint = tmp_path / "checkpoint.pth"
    alone = run_ok(COMMAND, *TINY, "--data-path", colours, "--eval", "--resume", checkpoint)
    assert f"eval  Acc@1 {last['test_acc1']:.3f} Acc@5 100.000 loss {last['test_loss']:.3f}" in (
        alone.stdout
    )
    assert last["train_lr"] == pytest.approx(0.1 * 4 * 2 / 512) or last["train_lr"] == 1e-6


@pytest.mark.slow
def test_errors_are_one_line(tmp_path):
    line = error_line(COMMAND, "--data-path", tmp_path)
    assert "train: no such folder" in line
    assert "--sched: invalid choice" in error_line(COMMAND, "--sched", "plateau")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_run_survives_signals(tmp_path, name):
    data = draw_classes(tmp_path / "data", train=60)  # it must not end before the signal comes
    wanted, out = tmp_path / "whole", tmp_path / "out"
    run_here(data, *EPOCHS, "--output_dir", wanted)
    words = [*EPOCHS, "--data-path", data, "--output_dir", out, "--resume", "auto"]
    process = start(*words)
    wait_for(process, "saved after step ")  # which one depends on the machine
    signal_all(process, name)
    process.communicate(timeout=60)
    assert process.returncode == (75 if name == "SIGTERM" else -signal.SIGKILL)
    stopped = load_checkpoint(str(out / "checkpoint.pth"))
    assert stopped["epoch"] < 2  # it was not at its end
    run_ok(COMMAND, *TINY, *words)
    assert_same_run(out, wanted)


def test_a_zoo_file_is_evaluated(colours, tmp_path, capsys):
    """Weights alone, of the model that its name says; position embeddings are resized."""
    name = "deit_tiny_patch16_224_ctx_product_50_shared_k"
    model = timm.create_model(name, num_classes=3, depth=1)
    torch.save({"model": model.state_dict()}, tmp_path / "zoo.pth")
    run_here(
        colours, "--model", name, "--enc_rpe2d", "", "--model-kwargs", "depth=1", "--input-size",
        32, "--eval", "--resume", tmp_path / "zoo.pth",
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert "position embeddings resized from 14 x 14 to 2 x 2" in shown
    assert re.search(r"^eval  Acc@1 \S+ Acc@5 100.000 loss \S+  15 images$", shown, re.M)
