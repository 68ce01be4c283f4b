"""Translate options between main.py and the config.json of Hugging Face's DETR."""

import argparse
from typing import Any

from torch import Tensor

from arguments import get_args_parser
from checkpoints.infer_options import BODY
from datasets.transforms import BASE_SIZE, IMAGENET_MEAN, IMAGENET_STD, MAX_SIZE
from models.option_values import BASIC_BLOCK_BACKBONES
from models.small_resnet import SMALL_RESNETS
from util.errors import UserError

# Names in config.json and of main.py's options. What config.json lacks has DETR's values in both.
SIZES = {
    "d_model": "hidden_dim",
    "encoder_layers": "enc_layers",
    "decoder_layers": "dec_layers",
    "encoder_ffn_dim": "dim_feedforward",
    "decoder_ffn_dim": "dim_feedforward",
    "encoder_attention_heads": "nheads",
    "decoder_attention_heads": "nheads",
    "num_queries": "num_queries",
    "position_embedding_type": "position_embedding",
}
LOSSES = {
    "class_cost": "set_cost_class",
    "bbox_cost": "set_cost_bbox",
    "giou_cost": "set_cost_giou",
    "bbox_loss_coefficient": "bbox_loss_coef",
    "giou_loss_coefficient": "giou_loss_coef",
    "mask_loss_coefficient": "mask_loss_coef",
    "dice_loss_coefficient": "dice_loss_coef",
    "eos_coefficient": "eos_coef",
}
# Values that this project computes with. With auxiliary_loss, transformers normalises the output of
# each decoder layer before the next layer reads it, which DETR does not.
FIXED = {"activation_function": "relu", "auxiliary_loss": False, "num_channels": 3}
FIXED_OF_RESNET = {
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
    "num_channels": 3,
}
STRIDE_16 = [name for name, sizes in SMALL_RESNETS.items() if sizes.strides[-1] == 1]
NATIVE_BACKBONES = (
    *(name for name in BASIC_BLOCK_BACKBONES if name not in STRIDE_16),
    "resnet50", "resnet101", "resnet152",
)  # fmt: skip
NO_NAME = "N/A"  # name of ids that are not used


# ---- from Hugging Face ----


def check_kind(config: Any, source: str) -> None:
    """Raise a UserError unless config.json describes a DETR that this project computes alike."""
    if not isinstance(config, dict):
        raise UserError(f"{source}: not the configuration of a model")
    kind = config.get("model_type")
    if kind != "detr":
        raise UserError(f"{source}: its model_type is {kind!r:.80}; only 'detr' can be converted")
    if "DetrForSegmentation" in str(config.get("architectures")):
        raise UserError(f"{source}: DetrForSegmentation; only DetrForObjectDetection is converted")
    _check_fixed(config, FIXED, source)


def options_from(config: dict, preprocessor: dict, native: bool, source: str) -> dict[str, Any]:
    """Return the options of main.py, by name, that cannot be inferred from weights.

    Args:
        config, preprocessor: contents of config.json and preprocessor_config.json.
        native: whether the backbone is transformers' own ResNet, which has no dilation.
        source: path of config.json, for messages.

    Raises:
        UserError: the number of heads is invalid.
    """
    heads = config.get("encoder_attention_heads", 8)
    if type(heads) is not int or heads < 1:
        raise UserError(f"{source}: encoder_attention_heads must be at least 1, is {heads!r:.80}")
    options = {here: config[there] for there, here in LOSSES.items() if there in config}
    options["dropout"] = config.get("dropout")
    options = {k: v for k, v in options.items() if isinstance(v, int | float) and v >= 0}
    size = preprocessor.get("size")
    size = size.get("shortest_edge") if isinstance(size, dict) else size
    options["image_size"] = size if type(size) is int and size >= 32 else BASE_SIZE
    return {**options, "nheads": heads, "dilation": not native and _output_stride(config) == 16}


def check_same_sizes(config: dict, args: argparse.Namespace, native: bool, source: str) -> None:
    """Raise a UserError unless config.json agrees with the options inferred from the weights."""
    defaults = get_args_parser().parse_args([])
    for there, here in SIZES.items():
        stated, inferred = config.get(there, getattr(defaults, here)), getattr(args, here)
        if stated != inferred:
            raise UserError(f"{source}: {there} is {stated!r:.80}, its weights have {inferred}")
    inner = _part(config, "backbone_config")
    if native:
        _check_fixed(inner, FIXED_OF_RESNET, source)
        return
    name = inner.get("backbone") or config.get("backbone") or "resnet50"
    plain = str(name).rpartition("/")[2].partition(".")[0].removeprefix("tv_")
    if plain != args.backbone:
        raise UserError(
            f"{source}: its backbone is {str(name)[:80]!r}, its weights are of {args.backbone}"
        )
    if _output_stride(config) not in (16, 32):
        raise UserError(f"{source}: its backbone has an output_stride other than 16 or 32")


def class_names(config: dict) -> dict[int, str]:
    """Return names of classes by label, without those of unused ids."""
    names = config.get("id2label")
    if not isinstance(names, dict):
        return {}
    labels = {k for k in names if len(k) < 10 and k.isdecimal()}
    return {int(k): str(v) for k, v in names.items() if k in labels and v != NO_NAME}


def _check_fixed(config: dict, fixed: dict, source: str) -> None:
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise UserError(
                f"{source}: {name} is {config[name]!r:.80}, this project computes with {value!r}; "
                "if the weights were trained with that, change the file"
            )


def _output_stride(config: dict) -> Any:
    """Return the stride of a timm backbone in pixels."""
    if config.get("backbone_config") is not None:
        return _part(config, "backbone_config").get("output_stride") or 32
    default = 16 if config.get("dilation") else 32
    return _part(config, "backbone_kwargs").get("output_stride", default)


def _part(config: dict, name: str) -> dict:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


# ---- to Hugging Face ----


def unsupported_reason(args: argparse.Namespace, native: bool) -> str | None:
    """Return why Hugging Face's DETR cannot be the model of `args`; None if it can."""
    for name in (args.enc_rpe2d, args.dec_rpe):
        if name:
            return f"it has relative positions ({name})"
    if args.masks:
        return "it has a mask head"
    if args.pre_norm:
        return "it normalises before each block (--pre_norm)"
    if args.backbone in STRIDE_16:
        return f"its backbone, {args.backbone}, has no stride in its last stage"
    if not native and args.backbone in SMALL_RESNETS:
        return f"timm has no {args.backbone}; leave --timm out"
    return None


def fits_native(args: argparse.Namespace) -> bool:
    """Return whether transformers' own ResNet can be the backbone."""
    return args.backbone in NATIVE_BACKBONES and not args.dilation


def config_of(
    args: argparse.Namespace, state: dict[str, Tensor], names: dict[int, str], native: bool
) -> dict[str, Any]:
    """Return the content of config.json.

    Args:
        state: of the model: it tells the backbone's numbers of blocks, and the dtype.
        names: names of classes by label.
    """
    labels = [names.get(label, NO_NAME) for label in range(args.num_classes)]
    dtype = str(state["query_embed.weight"].dtype).removeprefix("torch.")
    return {
        "architectures": ["DetrForObjectDetection"],
        "model_type": "detr",
        "dtype": dtype,
        **{there: getattr(args, here) for there, here in SIZES.items()},
        **_losses(args),
        **FIXED,
        **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), args.dropout),
        "dilation": args.dilation,
        "use_pretrained_backbone": False,
        "use_timm_backbone": not native,
        "backbone": None if native else args.backbone,
        "backbone_config": _resnet_config(args.backbone, state) if native else None,
        "id2label": {str(label): name for label, name in enumerate(labels)},
        "label2id": {name: label for label, name in enumerate(labels)},
    }


def preprocessor_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the content of preprocessor_config.json."""
    longest = round(MAX_SIZE * args.image_size / BASE_SIZE)
    return {
        "image_processor_type": "DetrImageProcessor",
        "format": "coco_detection",
        "do_resize": True,
        "size": {"shortest_edge": args.image_size, "longest_edge": longest},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        "do_pad": True,
    }


def _losses(args: argparse.Namespace) -> dict[str, float]:
    """Return weights of losses; transformers types all but eos_coefficient as int."""
    values = {there: getattr(args, here) for there, here in LOSSES.items()}
    whole = {name: int(value) for name, value in values.items() if value == int(value)}
    return {**whole, "eos_coefficient": float(args.eos_coef)}


def _resnet_config(backbone: str, state: dict[str, Tensor]) -> dict[str, Any]:
    basic = backbone in BASIC_BLOCK_BACKBONES
    last = "conv2" if basic else "conv3"
    blocks = [[n for n in state if n.startswith(f"{BODY}layer{i}.")] for i in range(1, 5)]
    blocks = [[n for n in stage if n.endswith(f".{last}.weight")] for stage in blocks]
    return {
        "model_type": "resnet",
        "layer_type": "basic" if basic else "bottleneck",
        "embedding_size": state[f"{BODY}conv1.weight"].shape[0],
        "hidden_sizes": [state[stage[0]].shape[0] for stage in blocks],
        "depths": [len(stage) for stage in blocks],
        "out_features": ["stage4"],
        "out_indices": [4],
        **FIXED_OF_RESNET,
    }
