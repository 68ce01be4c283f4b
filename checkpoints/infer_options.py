"""Infer the options of a model from names and shapes of its weights.

For checkpoints without args, such as DETR's own model files: `{"model": state dict}`.
"""

import argparse
import re

import torch
from torch import Tensor

from argument_checks import with_defaults
from arguments import get_args_parser
from models import NUM_CLASSES
from models.backbone import Backbone
from models.box_bias.dec_rpe import dec_rpe_of_weights, parse_dec_rpe
from models.option_values import BACKBONES
from models.rpe_attention.enc_rpe2d import parse_encoding
from models.rpe_attention.fitting import (
    OTHER_WEIGHTS,
    fitting_encodings,
    heads_of_tables,
    other_encoding,
)
from util.errors import UserError

from .compatibility import check_size, plain_name

BODY = "backbone.0.body."
ENCODER_ATTENTION = "transformer.encoder.layers.0.self_attn."
FIRST_FEED_FORWARD = "transformer.decoder.layers.0.linear1.weight"
COUNTER = "num_batches_tracked"  # of batch norm that is trained; frozen batch norm has none
RATIOS = (1.9, 2.0, 2.5, 3.0)  # the published ones; others can have as many buckets
# What to do where shapes do not determine an option.
GIVE_OPTION = (
    "give load_detector(path, {0}=...), or --{0} to tools/convert.py, which writes a checkpoint "
    "that has it"
)


def infer_options(
    state: dict[str, Tensor], source: str, **overrides
) -> tuple[argparse.Namespace, str]:
    """Infer the options of a model from its weights.

    Args:
        state: the model's state dict; of a model with masks the detector's names begin with
            "detr.".
        source: the checkpoint, as the user named it; "dc5" in it means dilation, as in the names of
            DETR's own files.
        overrides: options that need not be inferred, by name.

    Returns:
        All of main.py's options, and a line that says what was inferred and what is assumed.

    Raises:
        UserError: these are not a detector's weights, or do not determine an option.
    """
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UserError(f"{source}: not the weights of a DETR: not all of them are tensors")
    masks = any(name.startswith("detr.") for name in state)
    if masks:
        whole, state = state, {plain_name(name): v for name, v in state.items()}
    num_queries, hidden_dim = _shape(state, "query_embed.weight", 2, source)
    num_classes = _shape(state, "class_embed.weight", 2, source)[0] - 1
    inferred = {
        "backbone": _backbone(state, source),
        "backbone_weights": "none" if any(COUNTER in name for name in state) else "imagenet",
        "enc_layers": _count(state, r"transformer\.encoder\.layers\.(\d+)\."),
        "dec_layers": _count(state, r"transformer\.decoder\.layers\.(\d+)\."),
        "dim_feedforward": _shape(state, FIRST_FEED_FORWARD, 2, source)[0],
        "hidden_dim": hidden_dim,
        "num_queries": num_queries,
        "num_classes": num_classes,
        "position_embedding": "learned" if "backbone.1.row_embed.weight" in state else "sine",
        "pre_norm": "transformer.encoder.norm.weight" in state,
        "dec_rpe": dec_rpe_of_weights(state),
        "masks": masks,
    }
    nheads = None
    if masks:
        nheads = max(_shape(whole, "mask_head.lay1.weight", 4, source)[1] - hidden_dim, 1)
        if num_classes == NUM_CLASSES["coco_panoptic"]:
            inferred["dataset_file"] = "coco_panoptic"
    assumed = {}
    tables = _tables(state, source)
    if tables and "enc_rpe2d" not in overrides:
        # Other ratios can have as many buckets.
        inferred["enc_rpe2d"] = assumed["enc_rpe2d"] = _rpe_string(tables, source)
    heads_of_encoding = heads_of_tables(tables, hidden_dim)
    other = _other_encoding(state, hidden_dim, source)
    if other is not None:
        inferred["enc_rpe2d"], heads_of_encoding = other
    nheads = nheads or heads_of_encoding
    if nheads is None:
        nheads = assumed["nheads"] = 8
    inferred["nheads"] = nheads
    name = source.rpartition("/")[2].lower()
    inferred["dilation"] = re.search(r"(?<![a-z0-9])dc5(?![a-z0-9])", name) is not None
    assumed["dilation"] = inferred["dilation"]
    args = with_defaults(argparse.Namespace(**{**inferred, **overrides}), source)
    check_size(args, state, source)
    assumed = {name: value for name, value in assumed.items() if name not in overrides}
    return args, _line(args, assumed)


def summary(args: argparse.Namespace) -> str:
    """Return a line that describes a model."""
    encoding = "".join(f", {name}" for name in (args.enc_rpe2d, args.dec_rpe) if name)
    return (
        f"{args.backbone}{' dilated' * args.dilation}, {args.enc_layers} + {args.dec_layers} "
        f"layers of {args.hidden_dim}, {args.num_queries} queries, {args.num_classes} classes"
        f"{encoding}{', masks' * args.masks}"
    )


def _line(args: argparse.Namespace, assumed: dict) -> str:
    line = f"it names no options; its weights are of {summary(args)}"
    if assumed:
        line += "; assumed: " + ", ".join(f"{name}={value}" for name, value in assumed.items())
    return line


def _shape(state: dict, name: str, dims: int, source: str) -> tuple[int, ...]:
    """Return the shape of a tensor that each detector has."""
    value = state.get(name)
    if isinstance(value, Tensor) and value.dim() == dims and value.numel():
        return tuple(value.shape)
    first = next((f", but {str(other)!r:.80}" for other in state), "")
    raise UserError(f"{source}: not the weights of a DETR: there is no {name}{first}")


def _count(state: dict, pattern: str) -> int:
    """Count the different numbers in names of this pattern."""
    return len({match[1] for match in (re.match(pattern, name) for name in state) if match})


def _backbone(state: dict, source: str) -> str:
    """Return the backbone that has tensors of these names and shapes."""
    wanted = {
        name.removeprefix(BODY): tuple(value.shape)
        for name, value in state.items()
        if name.startswith(BODY) and not name.endswith(COUNTER)
    }
    # Most of all are of a ResNet-50.
    for name in sorted(BACKBONES, key="resnet50".__ne__):
        with torch.device("meta"):
            body = Backbone(name, False, False, False, False).body
        if {key: tuple(value.shape) for key, value in body.state_dict().items()} == wanted:
            return name
    raise UserError(f"{source}: its backbone is none of {', '.join(BACKBONES)}")


def _tables(state: dict, source: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a layer's RPE tables, by names such as rpe_k.lookup_table_bias."""
    shapes = {}
    for name in state:
        if name.startswith(f"{ENCODER_ATTENTION}rpe_"):
            short = name.removeprefix(ENCODER_ATTENTION)
            shape = _shape(state, name, 2 if name.endswith("_bias") else 3, source)
            if short.startswith("rpe_v"):
                shape = (shape[0], *shape[:0:-1])  # the last two in the order of queries and keys
            shapes[short] = shape
    return shapes


def _rpe_string(tables: dict[str, tuple[int, ...]], source: str) -> str:
    """Return --enc_rpe2d of an attention with such tables."""
    try:
        fitting = fitting_encodings(tables, RATIOS)
    except ValueError as error:
        raise UserError(f"{source}: its RPE tables are invalid ({error})") from error
    if len(fitting) == 1:
        return fitting[0]
    which = f"can be {' or '.join(fitting)}" if fitting else "fit no published --enc_rpe2d"
    buckets = next(iter(tables.values()))[-1]
    raise UserError(f"{source}: its {buckets} buckets {which}; {GIVE_OPTION.format('enc_rpe2d')}")


def _other_encoding(state: dict, width: int, source: str) -> tuple[str, int] | None:
    """Return --enc_rpe2d and --nheads of an attention with an encoding that has no tables."""
    for name, dims in OTHER_WEIGHTS.items():
        value = state.get(ENCODER_ATTENTION + name)
        if isinstance(value, Tensor):
            if value.dim() not in dims or not value.numel():
                _shape(state, ENCODER_ATTENTION + name, dims[0], source)
            try:
                return other_encoding(name, value, width)
            except ValueError as error:
                option = GIVE_OPTION.format("enc_rpe2d")
                raise UserError(f"{source}: its {name} {error}; {option}") from error
    return None


def check_overrides(overrides: dict) -> None:
    """Check options given to `load_detector`.

    Raises:
        TypeError: main.py has no such option.
        UserError: an enc_rpe2d or dec_rpe is invalid.
    """
    options = vars(get_args_parser().parse_args([]))
    for name in overrides:
        if name not in options:
            raise TypeError(f"main.py has no option {name}")
    for name, parse in (("enc_rpe2d", parse_encoding), ("dec_rpe", parse_dec_rpe)):
        try:
            parse(overrides.get(name, ""))
        except ValueError as error:
            raise UserError(f"{name} {error}") from error
