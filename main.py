"""Train or evaluate DETR with image relative position encoding."""

import argparse
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from datasets import scoring_annotations
from datasets.coco_panoptic import panoptic_root
from datasets.loaders import build_loaders, go_to
from datasets.panoptic_eval import PanopticEvaluator
from datasets.scorers import SCORERS
from engine import evaluate, train_one_epoch
from models import build_model
from models.backbone import BACKBONES, SMALL_RESNET
from models.compilation import check_compiler, compile_model
from models.options import check_attention, check_model_options, set_num_classes
from models.rpe_attention import ATTENTION
from models.rpe_attention.rpe_string import RPE_FORMAT, rpe_argument
from models.starting_point import StartingPoint, given_checkpoints
from util import dist
from util.command_line import OneLineParser, number, run_command, whole_number
from util.errors import UserError
from util.launchers import adopt_srun
from util.memory import keep_freed_memory
from util.optimization import build_optimizer
from util.output_dir import OutputDir
from util.parallel import parallel, share_buffers
from util.precision import DTYPES, Precision
from util.random_state import seed_all
from util.run_state import RunState, holds_training
from util.save_points import SavePoints
from util.stopping import StopSignals


# fmt: off
def get_args_parser() -> argparse.ArgumentParser:
    """All options, for use as a parent of another parser."""
    parser = argparse.ArgumentParser(add_help=False)

    group = parser.add_argument_group("optimisation")
    add = group.add_argument
    add("--lr", default=1e-4, type=number(0), help="learning rate of all but the backbone")
    add("--lr_backbone", default=1e-5, type=number(0),
        help="learning rate of the backbone; 0 freezes it")
    add("--batch_size", default=2, type=whole_number(1), help="images per process and step")
    add("--weight_decay", default=1e-4, type=number(0), help="of AdamW")
    add("--epochs", default=300, type=whole_number(1), help="epochs to train in all")
    add("--lr_drop", default=200, type=whole_number(1), help="epochs between drops of lr to 1/10")
    add("--clip_max_norm", default=0.1, type=number(0), help="largest gradient norm; 0 for any")

    group = parser.add_argument_group("model")
    add = group.add_argument
    add("--backbone", default="resnet50", choices=BACKBONES, metavar="NAME",
        help=f"{SMALL_RESNET} (small, for CPUs) or one of torchvision's ResNets")
    add("--backbone_weights", default="imagenet", metavar="imagenet|none|PATH",
        help="first weights of the backbone: torchvision's ImageNet V1, a state dict on disk, or "
        "none to train all of it from scratch, batch norm included; not read with --resume")
    add("--dilation", action="store_true", help="no stride in the backbone's last stage (DC5)")
    add("--position_embedding", default="sine", choices=("sine", "learned"),
        help="absolute positions")
    add("--enc_layers", default=6, type=whole_number(0), help="encoder layers")
    add("--dec_layers", default=6, type=whole_number(1), help="decoder layers")
    add("--dim_feedforward", default=2048, type=whole_number(1), help="width of its blocks")
    add("--hidden_dim", default=256, type=whole_number(1), help="width of the transformer")
    add("--dropout", default=0.1, type=number(0), help="in the transformer")
    add("--nheads", default=8, type=whole_number(1), help="attention heads")
    add("--num_queries", default=100, type=whole_number(1), help="most objects of an image")
    add("--num_classes", default=None, type=whole_number(1),
        help="one more than the largest category id; if not given, 91 for coco, 250 for "
        "coco_panoptic")
    add("--pre_norm", action="store_true", help="normalise before each block, not after")
    add("--enc_rpe2d", default="", type=rpe_argument, metavar="RPE",
        help=f"relative position encoding of the encoder: {RPE_FORMAT}; none if empty")
    add("--attention", default="auto", choices=ATTENTION,
        help="how the encoder computes attention: fused (relative positions looked up inside one "
        "kernel, little memory), sdpa (PyTorch's, with a term of the logits), math (logits written "
        "down), or auto (fused on CUDA where that is supported, else sdpa)")

    group = parser.add_argument_group("loss")
    add = group.add_argument
    add("--no_aux_loss", dest="aux_loss", action="store_false",
        help="supervise the last decoder layer only")
    add("--set_cost_class", default=1, type=number(0), help="matching: weight of the class")
    add("--set_cost_bbox", default=5, type=number(0), help="matching: weight of the L1 distance")
    add("--set_cost_giou", default=2, type=number(0), help="matching: weight of generalised IoU")
    add("--bbox_loss_coef", default=5, type=number(0), help="weight of the L1 loss")
    add("--giou_loss_coef", default=2, type=number(0), help="weight of the generalised IoU loss")
    add("--eos_coef", default=0.1, type=number(0), help="weight of the class no-object")

    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--dataset_file", default="coco", choices=("coco", "coco_panoptic"),
        help="kind of data set")
    add("--coco_path", metavar="DIR",
        help="folder with annotations/ and train2017, val2017 as folders or .zip archives")
    add("--remove_difficult", action="store_true", help="no effect on COCO data, kept for scripts")
    add("--image_size", default=800, type=whole_number(32),
        help="shorter side of validation images; sizes in training are in proportion")
    add("--augment", default="detr", choices=("detr", "flip"),
        help="training images: flips, sizes and crops, or only flips")
    add("--group_by_shape", action="store_true",
        help="train on batches of images of similar aspect ratio: less padding, other batches")
    add("--skip_bad_images", action="store_true",
        help="training only: images that cannot be read or have faults in the annotation file are "
        "counted and replaced by the next good one; evaluation never skips, and without this "
        "option training stops at the first")
    add("--num_workers", default=4, type=whole_number(0), help="loader processes; 0 for none")

    group = parser.add_argument_group("run")
    add = group.add_argument
    add("--output_dir", default="", help="where to write checkpoints and log; empty for nowhere")
    add("--device", default="auto", help="auto (CUDA if there is one, else CPU), cpu or cuda")
    add("--amp", default="off", choices=tuple(DTYPES),
        help="automatic mixed precision of the model: off is float32, bf16 and fp16 are faster")
    add("--compile", action="store_true",
        help="torch.compile the backbone and the decoder, which takes a minute at the start; meant "
        "for GPUs, gains little on CPUs")
    add("--gradient_checkpointing", action="store_true",
        help="compute activations again in the backward pass: less memory, a third slower")
    add("--release_memory", action="store_true",
        help="give freed memory back to the system, as is its default: needs less, is slower")
    add("--seed", default=42, type=int, help="of all random choices; each process adds its rank")
    add("--resume", default="", metavar="PATH|URL|auto",
        help="checkpoint to continue or evaluate; auto is the newest whole one of --output_dir, "
        "and a new run where there is none")
    add("--trust_checkpoint", action="store_true",
        help="read any kind of object from checkpoints, which can run code: only for files that "
        "you made")
    add("--checkpoint_every", default=10, type=number(0), metavar="MINUTES",
        help="write checkpoint.pth within epochs, too; 0 for only at their ends")
    add("--start_epoch", default=0, type=whole_number(0), help="epoch number to start at")
    add("--eval", action="store_true", help="only evaluate")
    add("--eval_every", default=1, type=whole_number(1), help="epochs between evaluations")
    add("--coco_eval", default="faster", choices=SCORERS,
        help="who computes COCO's average precision: faster-coco-eval or pycocotools, which is "
        "slower and gives the same numbers")
    add("--world_size", default=1, type=int, help="set by the launcher")
    add("--dist_url", default="env://", help="where processes meet")

    group = parser.add_argument_group("segmentation")
    add = group.add_argument
    add("--masks", action="store_true", help="a mask for each object")
    add("--frozen_weights", default=None, metavar="PATH|URL",
        help="checkpoint of a detector without masks, which stays as it is: only the mask head "
        "is trained")
    add("--mask_loss_coef", default=1, type=number(0), help="weight of the focal loss")
    add("--dice_loss_coef", default=1, type=number(0), help="weight of the dice loss")
    add("--coco_panoptic_path", metavar="DIR",
        help="folder with annotations/panoptic_*.json and the maps in panoptic_train2017 and "
        "panoptic_val2017, for --dataset_file coco_panoptic")
    return parser
# fmt: on


def check_args(args: argparse.Namespace) -> None:
    """Raise a UserError for options that do not fit each other or the files on disk.

    Sets args.num_classes where it is not given.
    """
    set_num_classes(args)
    if not args.coco_path:
        raise UserError("--coco_path is missing: the folder with annotations/ and the images")
    if not Path(args.coco_path).is_dir():
        raise UserError(f"--coco_path {args.coco_path}: no such folder")
    if args.dataset_file == "coco_panoptic":
        panoptic_root(args)
    if args.resume == "auto" and not args.output_dir:
        raise UserError("--resume auto needs an --output_dir to look in")
    check_model_options(args, weights_are_given=bool(given_checkpoints(args)))
    if args.compile:
        check_compiler()


def count_trained(model: torch.nn.Module) -> int:
    """Numbers that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@dist.one_fate()
def main(args: argparse.Namespace) -> None:
    """The run that `args` describe.

    Raises:
        UserError: it cannot be done, or not be continued.
        Stopped: a signal stopped it; it has saved itself.
    """
    adopt_srun()
    memory = "released" if args.release_memory else keep_freed_memory()
    device = dist.pick_device(args.device)
    # First of all: a node that lacks the data can then tell the others.
    dist.init_distributed_mode(args, device)
    dist.start_lifeline(args.dist_url)
    check_args(args)
    check_attention(args, device)
    dist.print_main(
        f"device: {device.type}, PyTorch {torch.__version__}, seed {args.seed}, memory: {memory}"
    )
    seed_all(args.seed + dist.get_rank())

    output = OutputDir(args.output_dir)
    start = StartingPoint(args, output)
    loader_train, loader_val = build_loaders(args)
    scores = scoring_annotations(loader_val.dataset, args)

    model, criterion, postprocessors = build_model(args)
    start.load_weights(model)
    model.to(device)
    criterion.to(device)
    if args.compile:
        compile_model(model)
    precision = Precision(args.amp, device)
    encoding = args.enc_rpe2d or "none"
    dist.print_main(f"{count_trained(model):,} parameters to train, enc_rpe2d {encoding}")

    if "panoptic" in postprocessors:
        postprocessors["panoptic"].things = loader_val.dataset.things()

    def run_evaluation(epoch: int | None, boundary: SavePoints | None = None) -> dict:
        """Evaluate the model itself: processes may have different numbers of batches."""
        panoptic = None
        if "panoptic" in postprocessors:
            panoptic = PanopticEvaluator(loader_val.dataset, keep_maps=not output.is_nowhere)
        stats, evaluator = evaluate(
            model, criterion, postprocessors, loader_val, scores, device, precision,
            args.coco_eval, boundary, panoptic,
        )  # fmt: skip
        if dist.is_main_process() and evaluator is not None:
            output.save_evaluation(evaluator.coco_eval["bbox"].eval, epoch)
        if panoptic is not None:
            output.save_maps(panoptic.save)
        return stats

    if args.eval:
        if not args.resume:
            dist.print_main("no --resume: the weights that are evaluated are not trained")
        run_evaluation(epoch=None)
        return

    optimizer = build_optimizer(model, args)
    lr_scheduler = torch.optim.lr_scheduler.StepLR(optimizer, args.lr_drop)
    categories = loader_train.dataset.annotations.categories
    classes = {category["id"]: category["name"] for category in categories}
    state = RunState(model, optimizer, lr_scheduler, precision, args, classes)
    if start.checkpoint is not None and holds_training(start.checkpoint):
        state.load_state_dict(start.checkpoint, len(loader_train))
    if not state.is_finished():
        state.resume_log(output)
    if state.is_finished():
        dist.print_main(
            f"{args.resume} has all of its {state.epoch + 1} epochs; nothing to do at "
            f"--epochs {args.epochs}"
        )
        return
    train(state, criterion, loader_train, output, run_evaluation)


def train(
    state: RunState,
    criterion: torch.nn.Module,
    loader: DataLoader,
    output: OutputDir,
    run_evaluation: Callable[[int, SavePoints], dict],
) -> None:
    """The epochs that `state` has not done yet, each with its checkpoint and its line of the log.

    Args:
        run_evaluation: called with an epoch and with what may stop it; gives numbers to log.
    """
    args, precision = state.args, state.precision
    # Trained batch norm has statistics to share, frozen batch norm never changes.
    share = args.backbone_weights == "none" and not args.frozen_weights
    model = state.model
    if args.distributed:
        model = parallel(model, precision, share, args.batch_size)

    def finish_epoch() -> None:
        """Evaluate where that is due, and write the line of log.txt."""
        epoch, row = state.epoch, dict(state.pending)
        # Kept: the state before each drop of the learning rate, and every 100 epochs.
        if (epoch + 1) % args.lr_drop == 0 or (epoch + 1) % 100 == 0:
            output.keep_checkpoint(epoch)
        if (epoch + 1) % args.eval_every == 0 or epoch + 1 >= args.epochs:
            stats = run_evaluation(epoch, points)
            row.update((f"test_{name}", value) for name, value in stats.items())
        row |= {"epoch": epoch, "n_parameters": count_trained(state.model)}
        output.append_log(row)
        state.evaluated(row)

    start = time.monotonic()
    with StopSignals(speaks=dist.is_main_process()) as signals:
        points = SavePoints(state, output, signals, args.checkpoint_every)
        if state.pending is not None:
            points.save()  # it may come from another folder
            finish_epoch()
        for epoch in range(state.epoch + 1, args.epochs):
            go_to(loader, epoch, state.step)
            stats = train_one_epoch(
                model, criterion, loader, state.optimizer, precision.device, epoch,
                args.clip_max_norm, precision, state.step, state.metrics, points,
            )  # fmt: skip
            if share:
                share_buffers(state.model)
            state.lr_scheduler.step()
            row = {f"train_{name}": value for name, value in stats.items()}
            if args.skip_bad_images:
                skipped = set().union(*dist.all_gather(loader.dataset.skipped()))
                row["train_skipped_images"] = len(skipped)
                dist.print_main(f"{len(skipped)} bad image(s) skipped so far")
            state.complete_epoch(row)
            points.save()
            finish_epoch()
        points.save()  # with the last evaluation
    dist.print_main(f"Training time {timedelta(seconds=round(time.monotonic() - start))}")


def cli() -> None:
    main(OneLineParser(description=__doc__, parents=[get_args_parser()]).parse_args())
    dist.shut_down()


if __name__ == "__main__":
    run_command(cli)
