"""The layers and heads that are shown, and their tables as arrays."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from util.errors import UserError

from .bucket_maps import full_radius, rpe_settings, strength_kind, strength_map
from .formula_maps import KINDS, formula_map, same_in_all_heads


class Table(NamedTuple):
    """How strong an encoding is for each key around a query.

    Attributes:
        letter: q, k or v, where RPE acts; or cpb or rope, see `formula_maps`.
        layers: numbers of n layers that have such a table.
        kind: bias, mean or norm, see `tools.rpe_inspection.bucket_maps.strength_kind`; centred or
            cosine, see `formula_maps`.
        heads: names of m heads.
        maps: (n, m, S, S) float32, laid out as by `bucket_map`.
    """

    letter: str
    layers: list[int]
    kind: str
    heads: list[str]
    maps: np.ndarray


class LayersAndHeads:
    """The n layers and m heads of a transformer that are shown.

    Args:
        rpe: RPE modules of all layers by where they act, as from `rpe_modules`.
        num_heads: of each layer.
        layers: numbers from 0; None for all.
        heads: mean, all, numbers, or None: the mean if all heads share their tables, else all.
        where: the layers are, for messages.

    Attributes:
        layers: as given, or all.
        heads: names of the m heads.

    Raises:
        UserError: there is no such layer or head.
    """

    def __init__(
        self,
        rpe: Sequence[dict[str, nn.Module]],
        num_heads: int,
        layers: list[int] | None,
        heads: str | list[int] | None,
        where: str,
    ):
        self.layers = _existing("--layers", layers, len(rpe), where)
        self._rpe = {i: rpe[i] for i in self.layers}
        if heads is None:
            shared = [_shared(*one) for part in self._rpe.values() for one in part.items()]
            heads = "mean" if all(shared) else "all"
        self._heads = None
        self.heads = [f"mean of {num_heads} heads"]
        if heads != "mean":
            self._heads = _existing("--heads", None if heads == "all" else heads, num_heads, where)
            self.heads = [f"head {head}" for head in self._heads]

    @property
    def has_rpe(self) -> bool:
        return any(self._rpe.values())

    def layer_tables(
        self,
        radius: int | None,
        inputs: Callable[[int], dict[str, Tensor]] | None,
        hw: tuple[int, int] | None,
        largest: tuple[int, int],
    ) -> list[Table]:
        """Return the RPE tables, laid out around a query; NaN where training had no such offset.

        Args:
            radius: of the maps in tokens; None for one at which all buckets show that maps reach.
            inputs: returns what the RPE of a layer is multiplied with on one image, by letters;
                None for the norm of contextual RPE's vectors.
            hw: of that image's map.
            largest: shorter and longer side, in tokens, of the largest map of the training.
        """
        tables = []
        farthest = max(1, *(side - 1 for side in (*largest, *(hw or ()))))
        for letter in ("q", "k", "v", *KINDS):
            having = {i: part[letter] for i, part in self._rpe.items() if letter in part}
            if not having:
                continue
            first = next(iter(having.values()))
            maps = []
            if letter in KINDS:
                radius = radius or farthest
                maps = [formula_map(module, radius, largest) for module in having.values()]
                kind = KINDS[letter]
            else:
                radius = radius or min(full_radius(rpe_settings(first)), farthest)
                for i, rpe in having.items():
                    x = inputs(i).get(letter) if inputs else None
                    maps.append(strength_map(letter, rpe, radius, x, largest))
                kind = strength_kind(letter, first, x)
            if len(maps[0]) == 1:
                heads, maps = ["all heads"], [to_numpy(m) for m in maps]
            else:
                heads, maps = self.heads, [self.chosen_heads(m) for m in maps]
            tables.append(Table(letter, list(having), kind, heads, np.stack(maps)))
        return tables

    def chosen_heads(self, values: Tensor) -> np.ndarray:
        """(H, ...) -> (m, ...)."""
        if self._heads is None:
            return to_numpy(values.mean(0, keepdim=True))
        return to_numpy(values[self._heads])


def _shared(letter: str, module: nn.Module) -> bool:
    """Return whether all heads have the same."""
    return same_in_all_heads(module) if letter in KINDS else rpe_settings(module).shared_head


def to_numpy(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def _existing(option: str, wanted: list[int] | None, count: int, where: str) -> list[int]:
    """Return the wanted ones of `count` numbers; None stands for all."""
    for i in wanted or ():
        if i >= count:
            raise UserError(f"{option} {i}: {where} has {count} {option[2:]}, counted from 0")
    return list(range(count)) if wanted is None else wanted
