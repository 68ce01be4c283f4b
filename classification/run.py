"""A run of training or evaluation of a classifier."""

import argparse
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

from training.amp import Precision
from training.checkpoint_content import check_model
from training.ddp import wrap_ddp
from training.early_stopping import Evaluations
from training.ema import WeightAverage
from training.loop import Epochs, count_trained, go_on, run_progress
from training.output_dir import OutputDir
from training.progress.run import epoch_of
from training.start.attention import check_fused
from training.start.processes import join_processes, open_resumed, prepare_device
from training.start.record import record_start
from training.start.saved_model import check_finite, load_exactly, saved_args
from training.state import TrainState
from training.tensorboard_log import check_tensorboard
from util import distributed as dist
from util.checkpoint import load_checkpoint
from util.cli import with_options
from util.errors import UserError, one_line

from .arguments import check_options, checked_args, model_options
from .arguments import get_args_parser as get_args_parser  # of a program, for tools.comparison
from .attention import RPEAttention
from .checkpoints import load_weights
from .data.loaders import Images, build_loaders
from .deit import DistilledVisionTransformer
from .engine import build_criterion, build_mixup, evaluate, train_one_epoch
from .resuming import check_same_model, load_resumed
from .task import AVERAGE, TASK, EpochSchedule, build_optimizer
from .zoo import MODELS, encoding_of


@dist.abort_together()
def main(args: argparse.Namespace) -> None:
    """Do the run that `args` describe.

    Raises:
        UserError: it cannot be done, or not be resumed.
        Stopped: a signal stopped it; it has saved itself.
    """
    device, memory = join_processes(args)
    check_args(args)
    if args.amp == "auto":
        args = with_options(args, amp="fp16" if device.type == "cuda" else "off")
    prepare_device(args, device, memory)
    run = Run(args, device)
    if not args.eval:
        run.train()
        return
    if not run.args.resume and not args.pretrained:
        dist.print_main("no --resume: the weights that are evaluated are not trained")
    run.evaluate()


def check_args(args: argparse.Namespace) -> None:
    """Check all options before anything takes long.

    Raises:
        UserError: options do not fit each other, the files on disk or what is installed.
    """
    check_options(args)
    if args.tensorboard:
        check_tensorboard(args.output_dir)


class Run:
    """A run of a classifier: its data, model and folder.

    Args:
        args: checked.
    """

    def __init__(self, args: argparse.Namespace, device: torch.device):
        self.device = device
        self.output = OutputDir(args.output_dir, TASK.metrics, args.tensorboard)
        args, self.checkpoint = open_resumed(args, self.output.newest_checkpoint)
        names = self._check_checkpoint(args) if self.checkpoint is not None else None
        self.loader_train, self.loader_val = build_loaders(args, names)
        images = self.loader_val.dataset
        assert isinstance(images, Images)
        self.classes = images.source.classes
        if args.num_classes is None:
            args = with_options(args, num_classes=len(self.classes))
        elif args.num_classes < len(self.classes):
            raise UserError(
                f"--num-classes {args.num_classes} are fewer than the {len(self.classes)} classes "
                f"in {args.data_path}"
            )
        # From here on `args` are what checkpoints keep: what was left to the data is known, too.
        self.args = args
        self.model = build_model(args)
        self._check_attention()
        if self.checkpoint is not None:
            load_resumed(self.model, self.checkpoint, args)
        elif args.finetune:
            load_weights(self.model, args.finetune, trust=args.trust_checkpoint)
            check_finite(self.model, f"--finetune {args.finetune}")
        self.model.to(device)
        self.average = None
        if args.model_ema and not args.eval:
            self.average = WeightAverage(self.model, args.model_ema_decay, AVERAGE)
        self.evaluated = self.model
        if args.eval_ema and not args.eval:
            if self.average is None:
                raise UserError("--eval-ema needs averaged weights, without --no-model-ema")
            self.evaluated = self.average.module
        if args.compile:
            for module in {self.model, self.evaluated}:
                module.compile()  # in place: names in the state dict stay
        self.precision = Precision(args.amp, device)
        dist.print_main(
            f"{count_trained(self.model):,} parameters to train, {len(self.classes)} classes, "
            f"{len(images)} images to evaluate"
        )

    def _check_attention(self) -> None:
        """Raise a UserError if --attention fused does not support the model's layers here."""
        layers = [layer for layer in self.model.modules() if isinstance(layer, RPEAttention)]
        if self.args.attention == "fused" and layers:
            encoding = encoding_of(self.args.model, None, self.args.enc_rpe2d)
            dropout = layers[0].attn_drop.p > 0 and not self.args.eval
            head_dim = layers[0].head_dim
            check_fused(encoding, head_dim, self.device, self.args.amp, dropout)

    def _check_checkpoint(self, args: argparse.Namespace) -> list[str] | None:
        """Check what --resume has read; returns the names of its classes, if it has them."""
        source = f"--resume {args.resume}"
        saved = saved_args(self.checkpoint, source, "classifier", checked_args)
        # Only a run that is not scaled has an empty entry.
        scaler = self.checkpoint.get("scaler") or None
        self.checkpoint = {**self.checkpoint, "args": saved, "scaler": scaler}
        if saved is not None:
            check_same_model(saved, args, source)
        names = self.checkpoint.get("classes") or {}
        if list(names) != list(range(len(names))):
            raise UserError(
                f"{source}: not a classifier's checkpoint, its classes are not numbered from 0"
            )
        return list(names.values()) or None

    def train(self) -> None:
        """Train all epochs, or those that a resumed run has left."""
        args, loader = self.args, self.loader_train
        assert loader is not None, "an evaluation reads no training images"
        # Before anything is restored or moved aside: it draws random numbers, and may not fit.
        criterion = build_criterion(args, build_teacher(args, self.device))
        optimizer = build_optimizer(self.model, args)
        state = TrainState(
            TASK, self.model, optimizer, EpochSchedule(optimizer, args, args.start_epoch),
            self.precision, args, {"classes": dict(enumerate(self.classes))}, self.average,
            loader.dataset,
        )  # fmt: skip
        if not go_on(state, self.checkpoint, len(loader), self.output):
            return
        self.checkpoint = None  # the memory
        images = self.loader_val.dataset
        assert isinstance(images, Images)
        record_start(self.output.path, args, images.fingerprint)
        model, shares_buffers = self.model, any(True for _ in self.model.buffers())
        if args.distributed:
            size = (min(args.batch_size, 2), 3, args.input_size, args.input_size)
            model = wrap_ddp(
                model, self.precision, shares_buffers, torch.zeros(size, device=self.device)
            )
        train_epoch = partial(
            train_one_epoch, model, criterion, loader, optimizer, self.device,
            max_norm=args.clip_grad or 0, mix=build_mixup(args),
            dropout=not args.finetune or args.finetune_drop, precision=self.precision,
            accumulate=args.accumulate, average=self.average,
        )  # fmt: skip
        progress = run_progress(state, len(loader), len(self.loader_val))
        Epochs(
            state, loader, self.output, train_epoch, self.evaluate, shares_buffers, progress
        ).run()
        best = Evaluations(state.log, TASK.metrics).best()
        if best is not None:
            of_epoch = epoch_of(best.epoch, args.epochs)
            dist.print_main(f"Max accuracy: {best.value:.2f}% of {of_epoch}")

    def evaluate(self, epoch: int | None = None, **options) -> dict[str, float]:
        """Evaluate the model, or with --eval-ema its averaged weights.

        Args:
            epoch: of training that is evaluated; None for an evaluation alone.
            options: of `engine.evaluate`.
        """
        return evaluate(
            self.evaluated, self.loader_val, self.device, precision=self.precision, epoch=epoch,
            **options,
        )  # fmt: skip


def build_model(args: argparse.Namespace) -> nn.Module:
    """Build the model of --model, with its published weights if these are asked for.

    Raises:
        UserError: its options do not fit.
    """
    options = {
        "num_classes": args.num_classes, "drop_rate": args.drop, "drop_path_rate": args.drop_path,
    }  # fmt: skip
    if args.model in MODELS:
        options |= {"enc_rpe2d": args.enc_rpe2d, "attention": args.attention,
                    "img_size": args.input_size}  # fmt: skip
    pretrained = args.pretrained and not (args.resume or args.finetune)
    options |= model_options(args)
    model: Any = _create(f"--model {args.model}", args.model, pretrained=pretrained, **options)
    if args.model in MODELS and args.input_size < max(model.patch_embed.patch_size):
        height, width = model.patch_embed.patch_size
        raise UserError(
            f"--input-size {args.input_size}: smaller than a patch of --model {args.model}, "
            f"{height} x {width}"
        )
    _check_size(model, args, f"--model {args.model}")
    known = model.pretrained_cfg.get("num_classes")
    if pretrained and args.eval and known != args.num_classes:
        raise UserError(
            f"--pretrained: its head has {known} classes, {args.data_path} has {args.num_classes}"
        )
    if isinstance(model, DistilledVisionTransformer):
        model.set_distilled_training(True)
    if args.gradient_checkpointing:
        model.set_grad_checkpointing(True)
    return model


def _create(option: str, name: str, **options: Any) -> nn.Module:
    """Call timm.create_model; raises a UserError that begins with `option`."""
    try:
        return timm.create_model(name, **options)
    except (TypeError, ValueError, ArithmeticError, AssertionError, RuntimeError) as error:
        raise UserError(f"{option}: cannot be created ({one_line(str(error), 300)})") from error


def _check_size(model: nn.Module, args: argparse.Namespace, option: str) -> None:
    """Raise a UserError if a model takes images of one size alone, and of another one."""
    patches: Any = getattr(model, "patch_embed", None)
    size = getattr(patches, "img_size", None)
    wanted = (args.input_size, args.input_size)
    if getattr(patches, "strict_img_size", False) and size and tuple(size) != wanted:
        raise UserError(
            f"{option}: takes images of {size[0]} x {size[1]}, --input-size is {args.input_size}; "
            f"--model-kwargs img_size={args.input_size} changes that of a student of timm"
        )


def build_teacher(args: argparse.Namespace, device: torch.device) -> nn.Module | None:
    """Build the model that is learned from; None without one.

    Raises:
        UserError: its weights cannot be read, or are of another model.
    """
    if args.distillation_type == "none":
        return None
    source = f"--teacher-path {args.teacher_path}"
    weights = load_checkpoint(args.teacher_path, args.trust_checkpoint)
    if isinstance(weights, dict) and "model" in weights:
        weights = weights["model"]
    check_model({"model": weights}, source, "teacher")
    option = f"--teacher-model {args.teacher_model}"
    teacher = _create(option, args.teacher_model, num_classes=args.num_classes)
    load_exactly(teacher, weights, source)
    _check_size(teacher, args, option)
    return teacher.to(device).eval().requires_grad_(False)
