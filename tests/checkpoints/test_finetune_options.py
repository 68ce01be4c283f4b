"""What --finetune decides of a training, where the command line does not."""

import pytest

from arguments import get_args_parser
from checkpoints.finetune_options import training_options
from tests.helpers.commands import MAIN, TINY_RUN, run_ok
from tests.helpers.data import make_shapes
from util.checkpoint import load_checkpoint
from util.cli import OneLineParser, options_given

# Each unlike its default and the others.
BEFORE = {
    "lr": 3e-4, "lr_backbone": 2e-5, "batch_size": 7, "accumulate": 3, "weight_decay": 2e-3,
    "clip_max_norm": 0.7, "dropout": 0.2, "augment": "flip", "set_cost_class": 1.5,
    "set_cost_bbox": 4.5, "set_cost_giou": 2.5, "bbox_loss_coef": 3.5, "giou_loss_coef": 1.25,
    "eos_coef": 0.3, "aux_loss": False, "mask_loss_coef": 1.75, "dice_loss_coef": 0.6,
}  # fmt: skip
LENGTH = {"epochs": 70, "lr_drop": 60, "lr_schedule": "step", "warmup": 9, "ema": 0.9}


def parsed(*options):
    parser = OneLineParser(parents=[get_args_parser()])
    args = parser.parse_args(list(map(str, options)))
    args.given = options_given(parser, list(map(str, options)))
    return args


def checkpoint_args(**others):
    args = parsed()
    vars(args).update(BEFORE | LENGTH | others)
    return args


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ([], {"epochs": 20, "lr_drop": 15, "warmup": 100, "ema": 0.9}),
        (["--epochs", 50], {"lr_drop": 37, "warmup": 100, "ema": 0.9}),
        (["--epochs", 1], {"lr_drop": 1, "warmup": 100, "ema": 0.9}),
        (["--lr_drop", 4, "--warmup", 0, "--ema", 0], {"epochs": 20}),
        (["--lr_schedule", "cosine"], {"epochs": 20, "warmup": 100, "ema": 0.9}),
    ],
)
def test_what_the_command_line_leaves_open(options, length):
    assert training_options(parsed(*options), checkpoint_args(), False) == BEFORE | length


def test_what_it_gives_stays():
    options = [f"--{name}={value}" for name, value in BEFORE.items() if name != "aux_loss"]
    options.append("--no_aux_loss")
    chosen = training_options(parsed(*options), parsed(), False)
    assert chosen == {"epochs": 20, "lr_drop": 15, "warmup": 100, "ema": 0.998}


def test_a_resumed_run_goes_on_as_it_was_begun():
    given = ["--lr", 5e-5, "--epochs", 80]
    chosen = training_options(parsed(*given), checkpoint_args(), True)
    wanted = BEFORE | LENGTH
    del wanted["lr"], wanted["epochs"]
    assert chosen == wanted


def test_a_run_and_its_resumption(shapes, tmp_path):
    """The run that --resume auto finds decides, not what the first checkpoint says today."""
    source, out = tmp_path / "source", tmp_path / "out"
    run_ok(MAIN, *TINY_RUN, "--coco_path", shapes, "--epochs", "1", "--output_dir", source,
           "--lr", "3e-4", "--augment", "flip")  # fmt: skip
    other = make_shapes(tmp_path / "other", "--train", "4", "--val", "2", "--size", "80")
    tune = [
        MAIN, "--finetune", source / "checkpoint.pth", "--coco_path", other, "--output_dir", out,
        "--device", "cpu", "--num_workers", "0", "--resume", "auto",
    ]  # fmt: skip
    told = run_ok(*tune, "--epochs", "1", "--warmup", "5").stdout
    assert f"options of training by {source / 'checkpoint.pth'}: --lr 0.0003 " in told
    assert "--augment 'flip'" in told and "--ema 0.998 --lr_drop 1" in told
    args = load_checkpoint(str(out / "checkpoint.pth"))["args"]
    assert (args.lr, args.augment, args.warmup, args.ema) == (3e-4, "flip", 5, 0.998)

    (source / "checkpoint.pth").unlink()  # no longer needed
    told = run_ok(*tune, "--epochs", "2", "--lr_drop", "9").stdout
    assert f"options of training by {out / 'checkpoint.pth'}: --lr 0.0003 " in told
    checkpoint = load_checkpoint(str(out / "checkpoint.pth"))
    assert checkpoint["epoch"] == 1
    assert (checkpoint["args"].warmup, checkpoint["args"].lr_drop) == (5, 9)
