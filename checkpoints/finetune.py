"""--finetune: a new model starts from all weights of another one that fit."""

from typing import Any

import torch
from torch import Tensor, nn

from models.box_bias.dec_rpe import RELATIVE
from util.errors import UserError

from .compatibility import plain_name

LOADED = "loaded"
TABLES = ("rpe_q", "rpe_k", "rpe_v", "rope", "cpb")


class Transfer:
    """Loads what fits of a checkpoint into a model, and tells what it did with each tensor.

    Args:
        weights: the checkpoint's state dict.
        names_there, names_here: of the classes, by label.
        same_rpe: whether both have the same --enc_rpe2d, so that buckets mean the same.
        source: the checkpoint, as the user named it.

    Attributes:
        done: what `load` did with each tensor of the model, by name.
        left_out: names of the checkpoint's tensors that the model does not have.
        loaded: how many numbers of the model are from the checkpoint.
    """

    def __init__(
        self,
        weights: dict[str, Tensor],
        names_there: dict[int, str],
        names_here: dict[int, str],
        same_rpe: bool,
        source: str,
    ):
        # With a mask head, all names of the detector begin so.
        self._weights = {plain_name(name): value for name, value in weights.items()}
        self._names_there = names_there
        self._names_here = names_here
        self._same_rpe = same_rpe
        self._source = source
        self.done: dict[str, str] = {}
        self.left_out: list[str] = []
        self.loaded = 0
        self._classes = ""

    @torch.no_grad()
    def load(self, model: nn.Module) -> None:
        """Fill the model.

        Raises:
            UserError: backbones or widths differ.
        """
        own = model.state_dict()
        self._total = sum(value.numel() for value in own.values())
        self.done = {name: self._fill(plain_name(name), value) for name, value in own.items()}
        used = {plain_name(name) for name in own}
        # Batch norm's counters are not worth a line.
        self.left_out = [
            n for n in self._weights if n not in used and not n.endswith("num_batches_tracked")
        ]
        for name, what in self.done.items():
            if "backbone.0." in name and what != LOADED and "num_batches_tracked" not in name:
                raise UserError(
                    f"{self._source}: its backbone is another one ({name}: {what}); give the "
                    "--backbone that it was made with"
                )
            if plain_name(name) == "input_proj.weight" and what != LOADED:
                raise UserError(
                    f"{self._source}: its transformer is of another width ({name}: {what}); give "
                    "the --hidden_dim that it was made with"
                )

    def summary(self) -> str:
        """Return one line: how many numbers were loaded, are new and were left out; and classes."""
        others = (self._weights[name] for name in self.left_out)
        left_out = sum(value.numel() for value in others if isinstance(value, Tensor))
        classes = f"; {self._classes}" if self._classes else ""
        return (
            f"{self._source}: {self.loaded:,} of the model's {self._total:,} parameters loaded, "
            f"{self._total - self.loaded:,} new, {left_out:,} of the checkpoint left out{classes}"
        )

    def report(self) -> str:
        """Return a line for each tensor of the model, and for each that was left out."""
        lines = [f"{name}: {what}" for name, what in self.done.items()]
        return "".join(f"{line}\n" for line in [*lines, *(f"{n}: left out" for n in self.left_out)])

    def _fill(self, name: str, target: Tensor) -> str:
        """Copy what fits into `target`, a tensor of the model; return what was done."""
        source = self._weights.get(name)
        if not isinstance(source, Tensor):
            if name == RELATIVE:
                target.zero_()
                return "0: the box head is of a model without reference boxes"
            return "new, not in the checkpoint"
        if not self._same_rpe and any(f".{table}." in name for table in TABLES):
            return "new, the checkpoint has another --enc_rpe2d"
        if name.startswith("class_embed.") and source.shape[1:] == target.shape[1:]:
            return self._fill_classes(source, target)
        if name == "query_embed.weight" and source.shape[1:] == target.shape[1:]:
            return self._fill_rows(source, target)
        if source.shape != target.shape:
            return f"new, {tuple(target.shape)} here, {tuple(source.shape)} in the checkpoint"
        return self._fill_all(source, target)

    def _fill_all(self, source: Tensor, target: Tensor) -> str:
        target.copy_(source)
        self.loaded += target.numel()
        return LOADED

    def _fill_classes(self, source: Tensor, target: Tensor) -> str:
        """Copy the rows of classes with the same name, and the last row, of no-object."""
        if source.shape == target.shape and self._names_here == self._names_there:
            return self._fill_all(source, target)
        rows_there = {_folded(name): label for label, name in self._names_there.items()}
        carried = []
        for label, name in self._names_here.items():
            row = rows_there.get(_folded(name))
            if row is not None and row < len(source) - 1:
                target[label] = source[row]
                carried.append(name)
        target[-1] = source[-1]
        self.loaded += (len(carried) + 1) * target[-1].numel()
        new = [name for name in self._names_here.values() if name not in carried]
        self._classes = f"classes: {len(carried)} known by name, {len(new)} new"
        return (
            f"rows carried over by name: no-object, {', '.join(carried) or 'none else'}"
            f"; new: {', '.join(new) or 'none'}"
        )

    def _fill_rows(self, source: Tensor, target: Tensor) -> str:
        if source.shape == target.shape:
            return self._fill_all(source, target)
        count = min(len(source), len(target))
        target[:count] = source[:count]
        self.loaded += target[:count].numel()
        return f"{count} of {len(target)} rows loaded, the checkpoint has {len(source)}"


def _folded(name: Any) -> str:
    return str(name).strip().casefold()
