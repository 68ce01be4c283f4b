"""Train or evaluate DETR with image relative position encoding.

examples:
  python main.py --coco_path coco_data --enc_rpe2d rpe-2.0-product-ctx-1-k --output_dir output
  python main.py --coco_path coco_data --resume output/checkpoint.pth --eval
"""

import argparse
from functools import partial

from argument_checks import check_attention, check_files, check_model_options
from arguments import get_args_parser
from util.cli import OneLineParser, answer_first, options_given, run_command, with_options


def command_parser() -> OneLineParser:
    parser = OneLineParser(description=__doc__, parents=[get_args_parser()])
    parser.file_checks.append(check_files)
    return parser


if __name__ == "__main__":
    answer_first(command_parser)

import torch

from checkpoints.starting_point import StartingPoint
from datasets import scoring_annotations
from datasets.augmentation import load_own_transforms
from datasets.coco_eval import print_classes
from datasets.loaders import Loader, build_loaders
from datasets.score_tables import print_tables
from datasets.validation.queries import too_few_queries
from detection_task import DETECTION, build_optimizer, build_schedule, never_drops
from engine import evaluate, train_one_epoch
from models import NUM_CLASSES, build_model
from models.box_bias.dec_rpe import parse_dec_rpe
from training.amp import Precision
from training.ddp import wrap_ddp
from training.ema import WeightAverage
from training.loop import Epochs, EvaluateEpoch, count_trained, go_on, run_progress
from training.output_dir import OutputDir
from training.start.compile import check_compiler, compile_model
from training.start.processes import check_run_options, join_processes, prepare_device
from training.start.record import record_start
from training.state import TrainState
from training.tensorboard_log import check_tensorboard
from util import distributed as dist
from util.errors import UserError
from util.misc import NestedTensor, nested_tensor_from_tensor_list


@dist.abort_together()
def main(args: argparse.Namespace) -> None:
    """Do the run that `args` describe.

    Raises:
        UserError: it cannot be done, or not be resumed.
        Stopped: a signal stopped it; it has saved itself.
    """
    device, memory = join_processes(args)
    args, start = check_args(args)
    check_attention(args, device)
    prepare_device(args, device, memory)

    run = Run(args, start, device)
    if not args.eval:
        run.train()
        return
    if not run.args.resume:
        dist.print_main("no --resume: the weights that are evaluated are not trained")
    print_classes(run.evaluate(), run.scored, prefix="")


def check_args(args: argparse.Namespace) -> tuple[argparse.Namespace, StartingPoint]:
    """Check all options before anything takes long.

    Returns:
        `args`, completed where --finetune leaves options to its checkpoint, and where the run
        starts.

    Raises:
        UserError: options do not fit each other or the files on disk.
    """
    if args.eval_split != "val":
        if not args.eval:
            raise UserError("--eval_split is for --eval: training evaluates validation images")
        if args.dataset_file != "coco":
            raise UserError(f"--eval_split {args.eval_split} is for --dataset_file coco")
    check_files(args)
    check_run_options(args)
    if args.ema >= 1:
        raise UserError(f"--ema {args.ema:g} must be below 1")
    if not args.eval:
        load_own_transforms(args.augment)
    start = StartingPoint(args)
    args = start.complete(args)
    check_model_options(args, start.weights_are_given)
    if args.compile:
        check_compiler()
    if args.tensorboard:
        check_tensorboard(args.output_dir)
    return args, start


class Run:
    """A run of the detector: its data, model, losses and folder.

    Args:
        args: checked.
        start: where weights come from.
    """

    def __init__(self, args: argparse.Namespace, start: StartingPoint, device: torch.device):
        self.start = start
        self.device = device
        self.output = OutputDir(args.output_dir, DETECTION.metrics, args.tensorboard, DETECTION.log)
        args = start.open(args, self.output.newest_checkpoint)
        if args.dataset_file == "coco_panoptic" and args.num_classes is None:
            args = with_options(args, num_classes=NUM_CLASSES["coco_panoptic"])
        self.loader_train, self.loader_val = build_loaders(args)
        # From here on `args` are what checkpoints keep: what was left to the data is known, too.
        self.args = args = with_options(args, **self.loader_val.dataset.classes._asdict())
        names = (self.loader_train or self.loader_val).dataset.annotations.class_names()
        # A file may list categories that no object has and the model has no class for.
        self.classes = {label: names[label] for label in names if 0 <= label < args.num_classes}
        self.scored = scoring_annotations(self.loader_val.dataset, args)
        if args.early_stop and self.scored is None and not args.masks:
            raise UserError(
                "--early_stop has nothing to go by: panoptic data without --masks is scored by "
                "annotations/instances_val2017.json below --coco_path, which is not there"
            )

        self.model, self.criterion, self.postprocessors = build_model(args)
        start.load_weights(self.model, args, self.classes)
        self.model.to(device)
        self.criterion.to(device)
        if "panoptic" in self.postprocessors:
            self.postprocessors["panoptic"].things = self.loader_val.dataset.things()
        self.average = None
        if args.ema and not args.eval:
            self.average = WeightAverage(self.model, args.ema)
            dist.print_main(f"evaluations are of the averaged weights (--ema {args.ema:g})")
        self.evaluated = self.model if self.average is None else self.average.module
        if args.compile:
            for module in {self.model, self.evaluated}:
                compile_model(module)
        self.precision = Precision(args.amp, device)
        rpe = args.enc_rpe2d or "none"
        dist.print_main(f"{count_trained(self.model):,} parameters to train, enc_rpe2d {rpe}")
        dec_rpe = parse_dec_rpe(args.dec_rpe)
        if dec_rpe is not None:
            dist.print_main(f"dec_rpe {dec_rpe}: {dec_rpe.describe()}")

    def train(self) -> None:
        """Train all epochs, or those that a resumed run has left."""
        args = self.args
        for warning in (
            too_few_queries(self.loader_train.dataset.annotations, args.num_queries),
            never_drops(args),
        ):
            if warning is not None:
                dist.print_main(warning)
        optimizer = build_optimizer(self.model, args)
        lr_scheduler = build_schedule(optimizer, args)
        state = TrainState(
            DETECTION, self.model, optimizer, lr_scheduler, self.precision, args,
            {"classes": self.classes}, self.average, self.loader_train.dataset,
        )  # fmt: skip
        steps = len(self.loader_train)
        if not go_on(state, self.start.checkpoint, steps, self.output, self.start.report):
            return
        self.start.checkpoint = None  # the memory
        record_start(self.output.path, args, self.loader_val.dataset.annotations.fingerprint)
        train(
            state, self.criterion, self.loader_train, self.output, self.evaluate,
            len(self.loader_val),
        )  # fmt: skip
        show = print_classes if args.eval_table else print_tables  # which are printed already
        show(state.log[-1], self.scored)

    def evaluate(self, epoch: int | None = None, **options) -> dict:
        """Evaluate the model, or its averaged weights.

        Args:
            epoch: of training that is evaluated; None for an evaluation alone.
            options: of `engine.evaluate`.
        """
        stats, evaluator = evaluate(
            self.evaluated, self.criterion, self.postprocessors, self.loader_val, self.scored,
            self.device, self.args.output_dir, precision=self.precision,
            scorer=self.args.coco_eval, epoch=epoch,
            table=epoch is None or self.args.eval_table, **options,
        )  # fmt: skip
        if dist.is_main_process() and evaluator is not None:
            self.output.save_evaluation(evaluator.coco_eval["bbox"].eval, epoch)
        return stats


def train(
    state: TrainState,
    criterion: torch.nn.Module,
    loader: Loader,
    output: OutputDir,
    evaluate: EvaluateEpoch,
    val_batches: int,
) -> None:
    """Train the epochs that `state` has left, over all processes.

    Args:
        val_batches: of an evaluation; only to show progress.
    """
    args, model = state.args, state.model
    # Trained batch norm has statistics to share, frozen batch norm never changes.
    shares_buffers = args.backbone_weights == "none" and not args.frozen_weights
    if args.distributed:
        model = wrap_ddp(
            model, state.precision, shares_buffers, empty_batch(args, state.precision.device)
        )
    train_epoch = partial(
        train_one_epoch, model, criterion, loader, state.optimizer, state.precision.device,
        max_norm=args.clip_max_norm, precision=state.precision, accumulate=args.accumulate,
        average=state.average,
    )  # fmt: skip
    progress = run_progress(state, len(loader), val_batches)
    Epochs(state, loader, output, train_epoch, evaluate, shares_buffers, progress).run()


def empty_batch(args: argparse.Namespace, device: torch.device) -> NestedTensor:
    """Return empty images that gradients can be arranged with."""
    # Not square, and more than one token each way, which torch.compile would take for the rule.
    images = torch.zeros(min(args.batch_size, 2), 3, 64, 96, device=device)
    return nested_tensor_from_tensor_list(images)


def cli() -> None:
    parser = command_parser()
    args = parser.parse_args()
    args.given = options_given(parser)
    main(args)
    dist.shut_down()


if __name__ == "__main__":
    run_command(cli)
