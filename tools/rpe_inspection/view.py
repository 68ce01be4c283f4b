"""Read tables and attention of chosen layers and heads of a detector as arrays."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datasets.transforms import MAX_SIZE, scaled
from detector import Detector
from util.errors import UserError

from .attention_maps import (
    ForwardRecord,
    decompose_attention,
    rpe_inputs,
    rpe_modules,
    transformer_of,
)
from .bucket_maps import full_radius, rpe_settings, strength_kind, strength_map


class Table(NamedTuple):
    """How strong RPE on queries, keys or values is for each key around a query.

    Attributes:
        letter: q, k or v.
        kind: bias, mean or norm, see `tools.rpe_inspection.bucket_maps.strength_kind`.
        heads: names of m heads.
        maps: (layers, m, S, S) float32, laid out as by `bucket_map`.
    """

    letter: str
    kind: str
    heads: list[str]
    maps: np.ndarray


class AttentionView:
    """A detector, and the n layers and m heads of its encoder that are shown.

    Args:
        layers: numbers from 0; None for all.
        heads: mean, all, numbers, or None: the mean if all heads share their tables, else all.

    Attributes:
        layers: as given, or all.
        heads: names of the m heads.

    Raises:
        UserError: there is no such layer or head.
    """

    def __init__(self, detector: Detector, layers: list[int] | None, heads: str | list[int] | None):
        self.detector = detector
        encoder = transformer_of(detector.model).encoder.layers
        self.layers = _existing("--layers", layers, len(encoder))
        self._rpe = [rpe_modules(encoder[i].self_attn) for i in self.layers]
        count = detector.args.nheads
        if heads is None:
            settings = [rpe_settings(rpe) for modules in self._rpe for rpe in modules.values()]
            heads = "mean" if all(s.shared_head for s in settings) else "all"
        self._heads = None
        self.heads = [f"mean of {count} heads"]
        if heads != "mean":
            self._heads = _existing("--heads", None if heads == "all" else heads, count)
            self.heads = [f"head {head}" for head in self._heads]

    @property
    def has_rpe(self) -> bool:
        return any(self._rpe)

    def tables(
        self, radius: int | None, record: ForwardRecord | None, largest: tuple[int, int]
    ) -> list[Table]:
        """Return the RPE tables, laid out around a query; NaN where training had no such offset.

        Args:
            radius: of the maps in tokens; None for one at which all buckets show that maps reach.
            record: a pass of one image, whose queries and keys contextual RPE is measured with;
                None for the norm of its vectors.
            largest: see `largest_training_map`.
        """
        tables = []
        farthest = max(1, *(side - 1 for side in (*largest, *(record.hw if record else ()))))
        for letter, first in self._rpe[0].items():
            radius = radius or min(full_radius(rpe_settings(first)), farthest)
            maps = []
            for i, modules in zip(self.layers, self._rpe, strict=True):
                x = rpe_inputs(*record.encoder[i]).get(letter) if record else None
                maps.append(strength_map(letter, modules[letter], radius, x, largest))
            if len(maps[0]) == 1:
                heads, maps = ["all heads"], [_to_numpy(m) for m in maps]
            else:
                heads, maps = self.heads, [self._chosen_heads(m) for m in maps]
            tables.append(Table(letter, strength_kind(letter, first, x), heads, np.stack(maps)))
        return tables

    def attention(
        self, record: ForwardRecord, tokens: list[tuple[int, int]]
    ) -> dict[str, np.ndarray]:
        """Return the attention of tokens in the encoder.

        Args:
            record: a pass of one image.
            tokens: row and column of p tokens in the feature map of h x w.

        Returns:
            Arrays (p, n, m, h, w) float32: attention, as the model computes it; and if RPE acts on
            logits, attention_without RPE, and attention_term, what RPE adds to the logits.
        """
        places = [row * record.hw[1] + column for row, column in tokens]
        by_layer: dict[str, list] = {}
        for i in self.layers:
            selected = decompose_attention(*record.encoder[i]).select_queries(places)
            parts = {"attention": selected.weights}
            if selected.term is not None:
                parts["attention_without"] = selected.weights_without
                parts["attention_term"] = selected.term
            for name, part in parts.items():
                maps = self._chosen_heads(part[0]).swapaxes(0, 1)  # (p, m, h * w)
                by_layer.setdefault(name, []).append(maps.reshape(*maps.shape[:2], *record.hw))
        return {name: np.stack(maps, axis=1) for name, maps in by_layer.items()}

    def decoder(
        self, record: ForwardRecord, orig_sizes: Tensor, threshold: float
    ) -> tuple[dict, np.ndarray]:
        """Return the last decoder layer's attention of the queries that have found something.

        Args:
            record: a pass of one image.
            orig_sizes: (1, 2), its height and width.
            threshold: lowest score of a detection.

        Returns:
            d detections as from `Detector`, and (d, h, w) float32, the mean of the heads.
        """
        result = self.detector.postprocessors["bbox"](record.outputs, orig_sizes)[0]
        result["queries"] = torch.arange(len(result["scores"]), device=result["scores"].device)
        detections = self.detector.filter_detections(result, threshold)
        queries = detections.pop("queries").tolist()
        weights = decompose_attention(*record.decoder).select_queries(queries).weights[0]
        return detections, _to_numpy(weights.mean(0).unflatten(-1, record.hw))

    def _chosen_heads(self, values: Tensor) -> np.ndarray:
        """(H, ...) -> (m, ...)."""
        if self._heads is None:
            return _to_numpy(values.mean(0, keepdim=True))
        return _to_numpy(values[self._heads])


def largest_training_map(detector: Detector) -> tuple[int, int]:
    """Return shorter and longer side, in tokens, of the largest feature map of a training.

    They follow from the checkpoint's options: images have a shorter side of image_size, and a
    longer one up to DETR's limit.
    """
    size = detector.args.image_size
    short, long = (-(-side // detector.stride) for side in (size, scaled(MAX_SIZE, size)))
    return short, long


def _to_numpy(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def _existing(option: str, wanted: list[int] | None, count: int) -> list[int]:
    """Return the wanted ones of `count` numbers; None stands for all."""
    for i in wanted or ():
        if i >= count:
            raise UserError(f"{option} {i}: the encoder has {count} {option[2:]}, counted from 0")
    return list(range(count)) if wanted is None else wanted
