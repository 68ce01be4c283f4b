"""Train or evaluate DETR with image relative position encoding."""

import argparse
import time
from collections.abc import Callable
from datetime import timedelta

import torch
from torch.utils.data import DataLoader

from arguments import get_args_parser
from checkpoints.starting_point import StartingPoint
from datasets import scoring_annotations
from datasets.coco_eval import print_classes
from datasets.coco_panoptic import panoptic_root
from datasets.layouts import find_split
from datasets.loaders import build_loaders, go_to
from datasets.panoptic_eval import PanopticEvaluator
from engine import COST_OF_EVALUATION, evaluate, train_one_epoch
from models import build_model
from models.compilation import check_compiler, compile_model
from models.options import check_attention, check_model_options, set_num_classes
from training.amp import Precision
from training.checkpointing import SavePoints
from training.ddp import parallel, share_buffers
from training.early_stopping import Evaluations
from training.ema import WeightAverage
from training.metrics import RunProgress
from training.optimizer import build_optimizer
from training.output_dir import OutputDir
from training.random_state import seed_all
from training.state import RunState, holds_training
from training.tensorboard_log import check_tensorboard
from util import distributed as dist
from util.cli import OneLineParser, options_given, run_command
from util.errors import UserError
from util.launchers import init_env_from_srun
from util.memory import keep_freed_memory
from util.signals import StopSignals


def check_args(args: argparse.Namespace) -> StartingPoint:
    """Where the run starts, after a look at all options.

    Raises:
        UserError: options do not fit each other or the files on disk.
    """
    for image_set in ("val",) if args.eval else ("train", "val"):
        find_split(image_set, args, annotated=False)
    if args.dataset_file == "coco_panoptic":
        panoptic_root(args)
    if args.resume == "auto" and not args.output_dir:
        raise UserError("--resume auto needs an --output_dir to look in")
    if args.ema >= 1:
        raise UserError(f"--ema {args.ema:g} must be below 1")
    start = StartingPoint(args)
    check_model_options(args, start.weights_are_given)
    if args.compile:
        check_compiler()
    if args.tensorboard:
        check_tensorboard(args.output_dir)
    return start


def count_trained(model: torch.nn.Module) -> int:
    """Numbers that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@dist.abort_together()
def main(args: argparse.Namespace) -> None:
    """The run that `args` describe.

    Raises:
        UserError: it cannot be done, or not be continued.
        Stopped: a signal stopped it; it has saved itself.
    """
    init_env_from_srun()
    memory = "released" if args.release_memory else keep_freed_memory()
    device = dist.pick_device(args.device)
    # First of all: a node that lacks the data can then tell the others.
    dist.init_distributed_mode(args, device)
    dist.start_watchdog(args.dist_url)
    start = check_args(args)
    check_attention(args, device)
    dist.print_main(
        f"device: {device.type}, PyTorch {torch.__version__}, seed {args.seed}, memory: {memory}"
    )
    seed_all(args.seed + dist.get_rank())

    output = OutputDir(args.output_dir, args.tensorboard)
    start.open(output)
    if args.dataset_file == "coco_panoptic":
        set_num_classes(args)
    loader_train, loader_val = build_loaders(args)
    classes = (loader_train or loader_val).dataset.annotations.class_names()
    scores = scoring_annotations(loader_val.dataset, args)
    if args.early_stop and scores is None and not args.masks:
        raise UserError(
            "--early_stop has nothing to go by: panoptic data without --masks is scored by "
            "annotations/instances_val2017.json below --coco_path, which is not there"
        )

    model, criterion, postprocessors = build_model(args)
    start.load_weights(model, classes)
    model.to(device)
    criterion.to(device)
    average = None
    if args.ema and not args.eval:
        average = WeightAverage(model, args.ema)
        dist.print_main(f"evaluations are of the averaged weights (--ema {args.ema:g})")
    evaluated = model if average is None else average.module
    if args.compile:
        for module in {model, evaluated}:
            compile_model(module)
    precision = Precision(args.amp, device)
    encoding = args.enc_rpe2d or "none"
    dist.print_main(f"{count_trained(model):,} parameters to train, enc_rpe2d {encoding}")

    if "panoptic" in postprocessors:
        postprocessors["panoptic"].things = loader_val.dataset.things()

    def run_evaluation(
        epoch: int | None, boundary: SavePoints | None = None, run: RunProgress | None = None
    ) -> dict:
        """Evaluate the model itself: processes may have different numbers of batches."""
        panoptic = None
        if "panoptic" in postprocessors:
            panoptic = PanopticEvaluator(loader_val.dataset, keep_maps=not output.is_nowhere)
        stats, evaluator = evaluate(
            evaluated, criterion, postprocessors, loader_val, scores, device, precision,
            args.coco_eval, boundary, panoptic, run,
        )  # fmt: skip
        if dist.is_main_process() and evaluator is not None:
            output.save_evaluation(evaluator.coco_eval["bbox"].eval, epoch)
        if panoptic is not None:
            output.save_maps(panoptic.save)
        return stats

    if args.eval:
        if not args.resume:
            dist.print_main("no --resume: the weights that are evaluated are not trained")
        print_classes(run_evaluation(epoch=None), scores, prefix="")
        return

    optimizer = build_optimizer(model, args)
    lr_scheduler = torch.optim.lr_scheduler.StepLR(optimizer, args.lr_drop)
    state = RunState(model, optimizer, lr_scheduler, precision, args, classes, average,
                     loader_train.dataset)  # fmt: skip
    if start.checkpoint is not None and holds_training(start.checkpoint):
        state.load_state_dict(start.checkpoint, len(loader_train))
    if not state.is_finished():
        state.resume_log(output)
        output.save_report(start.report)
    if state.is_finished():
        what, option = state.why_finished()
        dist.print_main(f"{args.resume} has {what}; nothing to do at {option}")
        return
    run = whole_run(state, len(loader_train), len(loader_val))
    train(state, criterion, loader_train, output, run_evaluation, run)
    print_classes(state.log[-1], scores)


def whole_run(state: RunState, steps: int, val_batches: int) -> RunProgress:
    """All that a run has to do, and has done.

    Args:
        steps: batches of a whole epoch of training.
        val_batches: of an evaluation.
    """
    args = state.args

    def cost(epochs: int) -> float:
        evaluations = epochs // args.eval_every
        if epochs == args.epochs and epochs % args.eval_every:
            evaluations += 1  # the last epoch is always evaluated
        return epochs * steps + evaluations * val_batches * COST_OF_EVALUATION

    return RunProgress(cost(args.epochs), cost(state.epoch + 1) + state.step)


def train(
    state: RunState,
    criterion: torch.nn.Module,
    loader: DataLoader,
    output: OutputDir,
    run_evaluation: Callable[[int, SavePoints, RunProgress], dict],
    run: RunProgress,
) -> None:
    """The epochs that `state` has not done yet, each with its checkpoint and its line of the log.

    Args:
        run_evaluation: called with an epoch, what may stop it, and `run`; gives numbers to log.
        run: what is done and left, to be shown.
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
            stats = run_evaluation(epoch, points, run)
            row.update((f"test_{name}", value) for name, value in stats.items())
        row |= {"epoch": epoch, "n_parameters": count_trained(state.model)}
        best = Evaluations([*state.log, row]).best()
        if best is not None and best.epoch == epoch:
            output.keep_best()
            dist.print_main(f"{best} is the best so far")
        output.append_log(row)
        state.evaluated(row)

    start = time.monotonic()
    with StopSignals(verbose=dist.is_main_process()) as signals:
        points = SavePoints(state, output, signals, args.checkpoint_every)
        if state.pending is not None:
            points.save()  # it may come from another folder
            finish_epoch()
        while not state.is_finished():
            epoch = state.epoch + 1
            go_to(loader, epoch, state.step)
            images = len(loader) * args.batch_size * args.world_size
            began = time.monotonic()
            stats = train_one_epoch(
                model, criterion, loader, state.optimizer, precision.device, epoch,
                args.clip_max_norm, precision, state.step, state.metrics, points,
                args.accumulate, state.average, run,
            )  # fmt: skip
            output.save_speed(epoch, images, time.monotonic() - began)
            if share:
                share_buffers(state.model)
                if state.average is not None:
                    share_buffers(state.average.module)
            state.lr_scheduler.step()
            row = {f"train_{name}": value for name, value in stats.items()}
            if args.skip_bad_images:
                row["train_skipped_images"] = len(state.skipped())
                dist.print_main(f"{row['train_skipped_images']} bad image(s) skipped so far")
            state.complete_epoch(row)
            points.save()
            finish_epoch()
        points.save()  # with the last evaluation
    if state.epoch + 1 < args.epochs:
        dist.print_main("stopped early: {}, {}".format(*state.why_finished()))
    dist.print_main(f"Training time {timedelta(seconds=round(time.monotonic() - start))}")


def cli() -> None:
    parser = OneLineParser(description=__doc__, parents=[get_args_parser()])
    args = parser.parse_args()
    args.given = options_given(parser)
    main(args)
    dist.shut_down()


if __name__ == "__main__":
    run_command(cli)
