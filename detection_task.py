"""What training has to know of detection: parameter groups, schedule, and what "better" means."""

import argparse
import math
from functools import partial

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, StepLR

from training.checkpoint_content import MAX_EPOCHS, RATE
from training.early_stopping import Metric
from training.log import NUMBER, LogFormat
from training.optimizer import WarmUp, load_optimizer, load_scheduler
from training.state import Task, TrainState
from util.distributed import print_main
from util.schema import dict_of, fields, integer, list_of, number, text

SCHEDULE = fields(
    {"base_lrs": list_of(RATE, 2, 2), "last_epoch": integer(0, MAX_EPOCHS)},
    {
        "step_size": integer(1),
        "gamma": number(0, 1),
        "_step_count": integer(),
        "_last_lr": list_of(RATE, 2, 2),
    },
)
# COCO's 12 numbers in their order; the log has them as a list.
COCO_NUMBERS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
QUALITY = fields({"pq": NUMBER, "sq": NUMBER, "rq": NUMBER, "n": NUMBER})
CLASSES = dict_of(text(1000), list_of(NUMBER, 5, 5), 100_000)
COCO_ENTRIES = {"test_coco_eval_bbox": "boxes", "test_coco_eval_masks": "masks"}
SCHEDULE_VALUES = ("base_lrs", "last_epoch", "_step_count", "_last_lr")
STEP_VALUES = ("step_size", "gamma")  # of --lr_schedule step besides
GAMMA = 0.1


def build_optimizer(model: nn.Module, args: argparse.Namespace) -> torch.optim.AdamW:
    """Build AdamW with two groups of parameters: without and with "backbone" in their names."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trained if "backbone" not in name]},
        {"params": [p for name, p in trained if "backbone" in name], "lr": args.lr_backbone},
    ]
    return torch.optim.AdamW(groups, lr=args.lr, weight_decay=args.weight_decay, fused=True)


def build_schedule(optimizer: torch.optim.AdamW, args: argparse.Namespace) -> StepLR | LambdaLR:
    """Build the schedule of learning rates, which goes on by epochs, and the warm-up by steps."""
    WarmUp(optimizer, args.warmup)
    if args.lr_schedule == "cosine":
        return LambdaLR(optimizer, partial(_factor, args=args))
    return StepLR(optimizer, args.lr_drop, GAMMA)


def never_drops(args: argparse.Namespace) -> str | None:
    """Return what to say where the learning rate is the same in all epochs."""
    if args.lr_schedule == "cosine" or args.lr_drop < args.epochs:
        return None
    return (
        f"--lr_drop {args.lr_drop} is not before the end of --epochs {args.epochs}: the learning "
        "rate never drops"
    )


def _factor(epoch: int, args: argparse.Namespace) -> float:
    """Return the part of the first learning rate that an epoch has."""
    if args.lr_schedule == "cosine":
        return (1 + math.cos(math.pi * min(epoch / args.epochs, 1))) / 2
    return GAMMA ** (epoch // args.lr_drop)


def load_schedule(
    optimizer: torch.optim.AdamW,
    lr_scheduler: StepLR | LambdaLR,
    model: nn.Module,
    checkpoint: dict,
    args: argparse.Namespace,
) -> dict[str, float]:
    """Load a checkpoint's optimizer and schedule, under the options of `args`.

    Where an option differs from the checkpoint's, the learning rates are those of a run that had
    the options of `args` from its start. Otherwise everything is as in the checkpoint, to the bit.

    Args:
        optimizer: from `build_optimizer`, for `model`.

    Returns:
        The options that optimizer and schedule of the checkpoint were made with, by name.

    Raises:
        UserError, ValueError: see `load_optimizer`.
    """
    saved = vars(checkpoint.get("args") or argparse.Namespace())
    option = "--lr_backbone 0"
    if bool(saved.get("frozen_weights")) != bool(args.frozen_weights):
        option = "--frozen_weights"
    hint = f"; is {option} in one of the two runs?"
    load_optimizer(optimizer, model, checkpoint, args.resume, hint)
    steps = args.lr_schedule == "step"
    load_scheduler(lr_scheduler, checkpoint, SCHEDULE_VALUES + STEP_VALUES * steps)
    groups = optimizer.param_groups
    before = {
        "lr": groups[0]["initial_lr"],
        "lr_backbone": groups[1]["initial_lr"],
        "weight_decay": groups[0]["weight_decay"],
        "lr_drop": checkpoint["lr_scheduler"].get("step_size", saved.get("lr_drop", args.lr_drop)),
        "lr_schedule": saved.get("lr_schedule", "step"),
        "warmup": saved.get("warmup", 0),
    }
    for group in groups:
        group["weight_decay"] = args.weight_decay
    decisive = ("lr", "lr_backbone", "lr_schedule", "lr_drop" if steps else "epochs")
    if any({**saved, **before}.get(name) != getattr(args, name) for name in decisive):
        if isinstance(lr_scheduler, StepLR):
            lr_scheduler.step_size = args.lr_drop
        lr_scheduler.base_lrs = [args.lr, args.lr_backbone]
        for group, lr in zip(groups, lr_scheduler.base_lrs, strict=True):
            group["initial_lr"] = lr
            group["lr"] = lr * _factor(lr_scheduler.last_epoch, args)
    return before


def keeps_checkpoint(epoch: int, args: argparse.Namespace) -> bool:
    """Keep the state before each drop of the learning rate, and every 100 epochs, as DETR."""
    drops = args.lr_schedule == "step" and (epoch + 1) % args.lr_drop == 0
    return drops or (epoch + 1) % 100 == 0


def epoch_numbers(state: TrainState) -> dict[str, int]:
    """Count the images that --skip_bad_images has left out so far."""
    if not state.args.skip_bad_images:
        return {}
    count = len(state.skipped())
    print_main(f"{count} bad image(s) skipped so far")
    return {"train_skipped_images": count}


def tag(name: str) -> str | None:
    """Return TensorBoard's name of a score: "boxes/AP50", "PQ/all_pq"."""
    for entry, group in COCO_ENTRIES.items():
        if name.startswith(f"{entry}_"):
            return f"{group}/{name.removeprefix(f'{entry}_')}"
    return f"PQ/{name.removeprefix('test_PQ_')}" if name.startswith("test_PQ_") else None


LOG_FORMAT = LogFormat(
    checks={
        **dict.fromkeys(COCO_ENTRIES, list_of(NUMBER, 12, 12)),
        **{f"{entry}_per_class": CLASSES for entry in COCO_ENTRIES},
        **{f"{entry}_AP_uncut": NUMBER for entry in COCO_ENTRIES},
        **dict.fromkeys(("test_PQ_all", "test_PQ_th", "test_PQ_st"), QUALITY),
    },
    lists=dict.fromkeys(COCO_ENTRIES, COCO_NUMBERS),
    tag=tag,
    is_score=lambda name: name.startswith(tuple(COCO_ENTRIES)),
)
DETECTION = Task(
    metrics=(
        Metric("PQ", "test_PQ_all", "pq"),
        Metric("AP of masks", "test_coco_eval_masks", 0),
        Metric("AP of boxes", "test_coco_eval_bbox", 0),
    ),
    schedule=SCHEDULE,
    param_groups=2,
    load_schedule=load_schedule,
    keeps_checkpoint=keeps_checkpoint,
    epoch_numbers=epoch_numbers,
    log=LOG_FORMAT,
)
