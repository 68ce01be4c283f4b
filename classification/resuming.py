"""A checkpoint that a classifier's run goes on with, or evaluates: is it of the same model."""

import argparse

from torch import nn

from training.ema import has_average
from training.start.saved_model import check_finite, load_exactly
from util import distributed as dist
from util.errors import UserError

from .checkpoints import fill
from .deit import DistilledVisionTransformer, VisionTransformer
from .task import AVERAGE
from .zoo import MODELS, encoding_of


def check_same_model(saved: argparse.Namespace, args: argparse.Namespace, source: str) -> None:
    """Check what shapes do not tell: encodings and heads.

    Args:
        saved: options of a checkpoint.
        source: the checkpoint, as the user named it.

    Raises:
        UserError: the checkpoint is of another model.
    """
    found, wanted = _not_shapes(saved, source), _not_shapes(args, f"--model {args.model}")
    if found is not None and wanted is not None and found != wanted:
        raise UserError(
            f"{source}: is of --model {saved.model} {_extra(saved)}, not of --model {args.model} "
            f"{_extra(args)}"
        )


def _not_shapes(args: argparse.Namespace, source: str) -> tuple | None:
    model = getattr(args, "model", None)
    if model not in MODELS:
        return None
    if not MODELS[model].enc_rpe2d and not hasattr(args, "enc_rpe2d"):
        return None  # published code has no option for it
    try:
        encoding = encoding_of(model, None, getattr(args, "enc_rpe2d", ""))
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    words = getattr(args, "model_kwargs", None) or []
    return encoding, [word for word in words if word.startswith("num_heads=")]


def _extra(args: argparse.Namespace) -> str:
    encoding = getattr(args, "enc_rpe2d", "") or "none"
    kwargs = getattr(args, "model_kwargs", None)
    return f"--enc_rpe2d {encoding}" + (f" --model-kwargs {' '.join(kwargs)}" if kwargs else "")


def load_resumed(model: nn.Module, checkpoint: dict, args: argparse.Namespace) -> None:
    """Load the weights of a checkpoint to go on with, or to evaluate.

    Raises:
        UserError: they are not of this model, or of other classes.
    """
    source = f"--resume {args.resume}"
    weights = checkpoint["model"]
    if args.eval and args.eval_ema:
        if not has_average(checkpoint, AVERAGE):
            raise UserError(f"{source}: holds no averaged weights for --eval-ema")
        weights = checkpoint[AVERAGE]
    if not isinstance(model, VisionTransformer | DistilledVisionTransformer):
        load_exactly(model, weights, source)
        return
    loaded = fill(model, weights, source)
    if loaded.left_out or loaded.new or (loaded.resized and not args.eval):
        raise UserError("; ".join(loaded.lines()) + f"; {args.data_path} has other classes, or "
                        "the model other options")  # fmt: skip
    for line in loaded.lines():
        dist.print_main(line)
    check_finite(model, source)
