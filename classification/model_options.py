"""Infer which DeiT a checkpoint is of, from its args and from names and shapes of its weights."""

import argparse
import math
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from torch import Tensor, nn

from models.rpe_attention.enc_rpe2d import parse_rpe_string
from models.rpe_attention.fitting import fitting_encodings, heads_of_tables
from util.errors import UserError

from .arguments import model_options
from .deit import DistilledVisionTransformer, VisionTransformer
from .zoo import MODELS, SIZES

ENCODING = "blocks.0.attn.rpe_"
RATIOS = (1.9, 2.0, 2.5, 3.0, 20, 33)  # the published ones; others can have as many buckets
HEAD_DIM = 64  # of each published DeiT
# Names that weights of a detector have, and those of a DeiT do not.
DETECTORS = ("query_embed.weight", "detr.query_embed.weight", "transformer.encoder.layers.0.")
# What --model-kwargs may have changed: tensors or args tell it, or it is of training alone.
SHOWN = {
    "embed_dim", "depth", "num_heads", "patch_size", "mlp_ratio", "qkv_bias", "img_size",
    "pos_embed", "dynamic_img_size", "enc_rpe2d", "attention", "drop_rate", "pos_drop_rate",
    "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate",
}  # fmt: skip
OPTIONS = ("num_heads", "enc_rpe2d", "img_size", "dynamic_img_size", "attention")


@dataclass(frozen=True)
class ModelOptions:
    """Options that a `VisionTransformer` is built with.

    Attributes:
        name: of the published model, or of its size; empty if it has none.
        enc_rpe2d: its encoding, as of --enc_rpe2d; empty for none.
        img_size, patch_size: height and width in pixels.
        saved_grid: rows and columns of patches that the checkpoint was trained with.
        absolute_positions: whether tokens have position embeddings.
        dynamic_img_size: whether images may have other sizes than img_size, too.
        attention: one of `rpe_ops.attention.ATTENTION`.
    """

    name: str
    enc_rpe2d: str
    num_classes: int
    img_size: tuple[int, int]
    patch_size: tuple[int, int]
    saved_grid: tuple[int, int]
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    qkv_bias: bool
    distilled: bool
    absolute_positions: bool = True
    dynamic_img_size: bool = False
    attention: str = "auto"

    def __str__(self) -> str:
        """Return a line that describes the model."""
        height, width = self.img_size
        return (
            f"{self.name or 'a DeiT'}, {self.depth} blocks of {self.embed_dim} with "
            f"{self.num_heads} heads, {self.num_classes} classes, images of {height} x {width}, "
            f"{self.enc_rpe2d or 'no encoding'}"
        )

    @property
    def extra_tokens(self) -> int:
        """How many tokens come before those of the patches."""
        return 1 + self.distilled

    def build(self) -> nn.Module:
        """Return a model whose weights are still to be loaded."""
        kind = DistilledVisionTransformer if self.distilled else VisionTransformer
        return kind(
            rpe_config=parse_rpe_string(self.enc_rpe2d, skip=self.extra_tokens),
            attention=self.attention, num_classes=self.num_classes, img_size=self.img_size,
            patch_size=self.patch_size, embed_dim=self.embed_dim, depth=self.depth,
            num_heads=self.num_heads, mlp_ratio=self.mlp_ratio, qkv_bias=self.qkv_bias,
            pos_embed="learn" if self.absolute_positions else "none",
            dynamic_img_size=self.dynamic_img_size, weight_init="skip",
        )  # fmt: skip


def infer_model(
    state: dict[str, Tensor], args: argparse.Namespace, source: str, **overrides: Any
) -> ModelOptions:
    """Return the options of the model that weights are of.

    Args:
        state: its weights by name.
        args: of the checkpoint; model, input_size and enc_rpe2d are used.
        source: the checkpoint, as the user named it; the name of a published model in its file's
            name stands for args.model.
        overrides: num_heads, enc_rpe2d, img_size (height and width, or one number for both),
            dynamic_img_size, attention: in place of what is inferred.

    Raises:
        UserError: these are not the weights of a classifier, or do not determine an option.
        TypeError: there is no such option.
    """
    unknown = [name for name in overrides if name not in OPTIONS]
    if unknown:
        raise TypeError(f"no option {unknown[0]}: there are {', '.join(OPTIONS)}")
    _check_kind(state, source)
    distilled = "dist_token" in state
    width, channels, *patch = _shape(state, "patch_embed.proj.weight", 4, source)
    positions = _shape(state, "pos_embed", 3, source) if "pos_embed" in state else None
    if channels != 3:
        raise UserError(f"{source}: its images have {channels} channels, not 3")
    patch_size = (patch[0], patch[1])
    tables = _tables(state, source)
    name = _model_name(args, source, width, distilled)
    kwargs = _model_kwargs(args, source)
    given = overrides.get("num_heads") or kwargs.get("num_heads")  # tensors do not show it
    num_heads = given or _heads(tables, width, source)
    if not isinstance(num_heads, int) or num_heads < 1 or width % num_heads:
        raise UserError(f"{source}: {width} channels are not of {num_heads} heads")
    patches = positions[1] - 1 - distilled if positions else None
    grid, img_size = _sizes(patches, patch_size, args, source, overrides)
    return ModelOptions(
        name=name,
        enc_rpe2d=_encoding(tables, name, args, source, 1 + distilled, overrides),
        num_classes=_shape(state, "head.weight", 2, source)[0],
        img_size=img_size,
        patch_size=patch_size,
        saved_grid=grid,
        embed_dim=width,
        depth=len({m[1] for m in (re.match(r"blocks\.(\d+)\.", key) for key in state) if m}),
        num_heads=num_heads,
        mlp_ratio=_shape(state, "blocks.0.mlp.fc1.weight", 2, source)[0] / width,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        distilled=distilled,
        absolute_positions=positions is not None,
        **{key: overrides[key] for key in ("dynamic_img_size", "attention") if key in overrides},
    )


def _check_kind(state: dict[str, Tensor], source: str) -> None:
    if any(name.startswith(DETECTORS) for name in state):
        raise UserError(f"{source}: a detector's checkpoint, not a classifier's: see tools/")
    if "cls_token" in state and "head.weight" not in state:
        raise UserError(f"{source}: has no head.weight: these are features without classes")


def _shape(state: dict[str, Tensor], name: str, dims: int, source: str) -> tuple[int, ...]:
    """Return the shape of a tensor that each classifier has."""
    value = state.get(name)
    if isinstance(value, Tensor) and value.dim() == dims and value.numel():
        return tuple(value.shape)
    first = next((f", but {str(other)!r:.80}" for other in state), "")
    raise UserError(f"{source}: not the weights of a DeiT: there is no {name}{first}")


def _tables(state: dict[str, Tensor], source: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a block's tables, by names such as rpe_k.lookup_table_weight."""
    shapes = {}
    for name in state:
        if name.startswith(ENCODING):
            short = "rpe_" + name.removeprefix(ENCODING)
            shape = _shape(state, name, 2 if name.endswith("_bias") else 3, source)
            if short.startswith("rpe_v"):
                shape = (shape[0], *shape[:0:-1])  # the last two in the order of queries and keys
            shapes[short] = shape
    return shapes


def _model_name(args: argparse.Namespace, source: str, width: int, distilled: bool) -> str:
    """Return the model's name in the args or in the file's name, or that of its size, or ""."""
    named = getattr(args, "model", None)
    if isinstance(named, str) and named in MODELS:
        return named
    stem = PurePosixPath(source.replace("\\", "/")).stem
    if stem in MODELS:
        return stem
    stem = stem.rpartition("-")[0]  # Facebook's files end with digits of their checksum
    if stem in MODELS:
        return stem
    sizes = [size for size, (known, _) in SIZES.items() if known == width]
    return f"deit_{sizes[0]}{'_distilled' * distilled}" if sizes else ""


def _model_kwargs(args: argparse.Namespace, source: str) -> dict[str, Any]:
    """Return the values of --model-kwargs in a checkpoint's args, which may hold anything.

    Raises:
        UserError: they are malformed, or of an option that this project's classifiers lack.
    """
    words = getattr(args, "model_kwargs", None) or []
    if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise UserError(f"{source}: args: model_kwargs is {words!r:.60}, not a list of texts")
    given = model_options(argparse.Namespace(model_kwargs=words))
    for name, value in given.items():
        if name not in SHOWN:
            raise UserError(
                f"{source}: was trained with --model-kwargs {name}={value}, with which models can "
                "be trained and evaluated by classification/main.py alone"
            )
    return given


def _heads(tables: dict[str, tuple[int, ...]], width: int, source: str) -> int:
    heads = dict(SIZES.values()).get(width) or heads_of_tables(tables, width)
    if heads is None and width % HEAD_DIM == 0:
        heads = width // HEAD_DIM
    if heads is None:
        raise UserError(f"{source}: the number of heads is not in it: give num_heads=")
    return heads


def _sizes(
    patches: int | None,
    patch_size: tuple[int, int],
    args: argparse.Namespace,
    source: str,
    overrides: dict[str, Any],
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return rows and columns of the saved patches, and height and width of the images.

    Args:
        patches: for which there are position embeddings; None without these.
    """
    saved, wanted = getattr(args, "input_size", None), overrides.get("img_size")
    saved, wanted = _pair(saved), _pair(wanted)
    if "img_size" in overrides and (wanted is None or any(
        side < 1 or side % patch for side, patch in zip(wanted, patch_size)
    )):  # fmt: skip
        raise UserError(
            f"img_size {overrides['img_size']!r:.60} is not a whole number of patches of "
            f"{patch_size[0]} x {patch_size[1]} pixels"
        )
    size: tuple[int, int] | None = None
    for size in (saved, wanted):
        grid = size and (size[0] // patch_size[0], size[1] // patch_size[1])
        if grid and patches in (None, grid[0] * grid[1]):
            break
    else:
        if patches is None:
            raise UserError(
                f"{source}: has no position embeddings, which tell the size: give img_size="
            )
        side = math.isqrt(max(patches, 0))
        if side < 1 or side * side != patches:
            raise UserError(f"{source}: its {patches} patches are not a square: give img_size=")
        grid, size = (side, side), None
    return grid, wanted or size or (grid[0] * patch_size[0], grid[1] * patch_size[1])


def _pair(size: Any) -> tuple[int, int] | None:
    """Return one or two whole numbers as two; None for anything else."""
    sizes = [size, size] if isinstance(size, int) else size
    if isinstance(sizes, list | tuple) and [type(side) for side in sizes] == [int, int]:
        return sizes[0], sizes[1]
    return None


def _encoding(
    tables: dict[str, tuple[int, ...]],
    name: str,
    args: argparse.Namespace,
    source: str,
    skip: int,
    overrides: dict[str, Any],
) -> str:
    """Return the encoding, as of --enc_rpe2d."""
    if "enc_rpe2d" in overrides:
        text = overrides["enc_rpe2d"]
    else:
        saved = getattr(args, "enc_rpe2d", "")
        text = saved if isinstance(saved, str) and saved else ""
        text = text or (MODELS[name].enc_rpe2d if name in MODELS else "")
    try:
        parse_rpe_string(text, skip)
        if not tables or text:
            return text
        fitting = fitting_encodings(tables, RATIOS, skip)
    except ValueError as error:
        raise UserError(f"{source}: enc_rpe2d {error}") from error
    if len(fitting) == 1:
        return fitting[0]
    which = f"can be {' or '.join(fitting)}" if fitting else "fit no published encoding"
    buckets = next(iter(tables.values()))[-1]
    raise UserError(f"{source}: its {buckets} buckets {which}; give enc_rpe2d=")
