"""Weights of a DeiT from a file, an address or a folder, into a model that may differ a little.

Reads what the published DeiT with iRPE writes, weights alone, and folders of Hugging Face.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from util.checkpoint import load_checkpoint
from util.distributed import print_main
from util.errors import UserError

from .deit import resize_position_embedding
from .hugging_face import read_folder

WEIGHTS = ("model", "state_dict")  # entries of a checkpoint
AVERAGES = ("model_ema", "ema", "state_dict_ema")  # published, this project's, timm's
HEADS = ("head.", "head_dist.")
WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put in front


@dataclass
class Loaded:
    """What `load_weights` did.

    Attributes:
        source: the checkpoint, as the user named it.
        left_out: its tensors that were not used.
        new: tensors of the model that keep their initial values.
        resized: from which map to which one position embeddings were resized; None if not.
    """

    source: str
    left_out: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    resized: tuple[tuple[int, int], tuple[int, int]] | None = None

    def lines(self) -> list[str]:
        """Return a line for each way in which the model is not the checkpoint's."""
        lines = []
        if self.left_out:
            lines.append(f"{self.source}: left out: {', '.join(self.left_out)}")
        heads = [name for name in self.new if name.startswith(HEADS)]
        if heads:
            lines.append(f"{self.source}: new, with random weights: {', '.join(heads)}")
        tables = sorted({name.partition(".attn.")[2] for name in self.new} - {""})
        if tables:
            lines.append(
                f"{self.source}: has no encoding; new, and 0 in each block: {', '.join(tables)}"
            )
        if self.resized:
            (h, w), (height, width) = self.resized
            lines.append(
                f"{self.source}: position embeddings resized from {h} x {w} to {height} x {width}"
            )
        return lines


def load_weights(
    model: nn.Module,
    source: str | Path,
    average: bool = False,
    grid: tuple[int, int] | None = None,
    trust: bool = False,
) -> Loaded:
    """Load weights into a model, and print what was left out.

    The model may have another number of classes: heads of other sizes are left out. It may have
    images of another size: position embeddings are resized, and tables are by bucket, of any size.
    It may have an encoding where the checkpoint has none: tables stay 0, which changes nothing.

    Args:
        model: a `VisionTransformer` or a `DistilledVisionTransformer`, on any device.
        source: a checkpoint's path or https address, or a folder of Hugging Face or of timm.
        average: load the averaged weights that the checkpoint holds beside `model`.
        grid: rows and columns of patches of the checkpoint, where its number of patches leaves
            them open; by default a square.
        trust: read types that could run code.

    Raises:
        UserError: it cannot be read, or is of another model; the message names what differs.
    """
    source = str(source)
    if "://" not in source and Path(source).is_dir():
        if average:
            raise UserError(f"{source}: a folder holds no averaged weights")
        state, kept_apart, in_config = read_folder(Path(source), model)
        grid = grid or in_config
    else:
        state = state_of(load_checkpoint(source, trust), average, source)
        kept_apart = []
    loaded = fill(model, state, source, grid)
    loaded.left_out += kept_apart
    for line in loaded.lines():
        print_main(line)
    return loaded


def fill(
    model: nn.Module,
    state: dict[str, Tensor],
    source: str,
    grid: tuple[int, int] | None = None,
) -> Loaded:
    """Fill a model with a state dict; see `load_weights`."""
    own = model.state_dict()
    _check_kind(state, own, source)
    loaded = Loaded(source)
    filled = dict(own)
    for name, value in state.items():
        if name.startswith(HEADS) and (name not in own or own[name].shape != value.shape):
            loaded.left_out.append(_with_shape(name, value, own.get(name)))
        elif name == "pos_embed" and name in own:
            filled[name] = _positions(value, model, source, grid, loaded)
        elif name not in own:
            raise UserError(f"{source}: {name} is not in the model: it is of another architecture")
        elif own[name].shape != value.shape:
            raise UserError(
                f"{source}: {name} is {tuple(value.shape)}, in the model {tuple(own[name].shape)}: "
                "create the model that it was made with"
            )
        else:
            filled[name] = value
    missing = [name for name in own if name not in state]
    # A file without a head is of features; one whose head has other classes is reported above.
    loaded.new = [name for name in own if name.startswith(HEADS) and filled[name] is own[name]]
    tables = [name for name in missing if ".attn.rpe_" in name]
    loaded.new += tables
    rest = [name for name in missing if name not in loaded.new]
    if rest:
        raise UserError(f"{source}: has no {rest[0]}: it is not a whole DeiT of this architecture")
    model.load_state_dict(filled)
    return loaded


def state_of(checkpoint: Any, average: bool, source: str) -> dict[str, Tensor]:
    """Return the state dict in what a file holds; see `load_weights`.

    Raises:
        UserError: there is none.
    """
    found = None
    if isinstance(checkpoint, dict):
        entries = AVERAGES if average else WEIGHTS
        found = next((checkpoint[name] for name in entries if name in checkpoint), None)
        if found is None and average:
            raise UserError(f"{source}: holds no averaged weights ({', '.join(AVERAGES)})")
        found = checkpoint if found is None else found
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())
    ):
        raise UserError(f"{source}: holds no weights: neither model nor tensors by name")
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in found):
            found = {name.removeprefix(wrapper): value for name, value in found.items()}
    return found


def _check_kind(state: dict[str, Tensor], own: dict[str, Tensor], source: str) -> None:
    """Raise a UserError if they differ in distillation, absolute positions or their encoding."""
    if "cls_token" not in state:
        first = next(iter(state), "nothing")
        raise UserError(f"{source}: not the weights of a DeiT: it begins with {first[:80]!r}")
    there, here = "pos_embed" in state, "pos_embed" in own
    if there != here:
        kinds = ("no absolute positions", "absolute positions")
        raise UserError(
            f"{source}: has {kinds[there]}, the model has {kinds[here]}: create it with "
            f"pos_embed={'learn' if there else 'none'} (--model-kwargs)"
        )
    there, here = "dist_token" in state, "dist_token" in own
    if there != here:
        kinds = ("has no distillation token", "has a distillation token")
        raise UserError(
            f"{source}: {kinds[there]}, the model {kinds[here]}: create "
            f"deit_*{'_distilled' * there}_patch16_*"
        )
    encodings = [
        {name.partition(".attn.")[2]: tuple(value.shape) for name, value in tensors.items()
         if name.startswith("blocks.0.attn.rpe_")}
        for tensors in (state, own)
    ]  # fmt: skip
    if encodings[0] and encodings[0] != encodings[1]:
        found, wanted = (
            ", ".join(f"{name} {shape}" for name, shape in sorted(encoding.items())) or "none"
            for encoding in encodings
        )
        raise UserError(f"{source}: its encoding is {found}, the model's {wanted}")


def _positions(
    value: Tensor,
    model: Any,
    source: str,
    grid: tuple[int, int] | None,
    loaded: Loaded,
) -> Tensor:
    """Return position embeddings for the model's map.

    Args:
        value: (1, extra tokens + patches, C).
        model: see `load_weights`.
        grid: of these patches; None for a square.
    """
    own, extra, new = model.pos_embed, model.num_prefix_tokens, model.patch_embed.grid_size
    if value.dim() != 3 or value.shape[::2] != own.shape[::2] or value.shape[1] <= extra:
        raise UserError(
            f"{source}: pos_embed is {tuple(value.shape)}, in the model {tuple(own.shape)}: create "
            "the model that it was made with"
        )
    patches = value.shape[1] - extra
    side = math.isqrt(patches)
    if grid is None and side**2 == patches:
        grid = (side, side)
        if grid != tuple(new) and new[0] * new[1] == patches:
            raise UserError(
                f"{source}: its {patches} patches are {side} x {side} or {new[0]} x {new[1]}: give "
                "grid=, its rows and columns"
            )
    elif grid is None and new[0] * new[1] == patches:
        grid = tuple(new)
    if grid is None or grid[0] * grid[1] != patches:
        what = "not a square" if grid is None else f"not {grid[0]} x {grid[1]}"
        raise UserError(f"{source}: its {patches} patches are {what}: give grid=, rows and columns")
    if grid == tuple(new):
        return value
    loaded.resized = (grid, tuple(new))
    with torch.no_grad():
        return resize_position_embedding(value, grid, tuple(new), extra)


def _with_shape(name: str, value: Tensor, own: Tensor | None) -> str:
    if own is None:
        return f"{name} (the model has none)"
    return f"{name} ({len(value)} classes there, {len(own)} here)"
