"""Chosen layers and heads of a detector, looked at: arrays to be drawn or kept."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datasets.transforms import MAX_SIZE, scaled
from detector import Detector
from tools.graph_export.detector import stride
from util.errors import UserError

from .attention_maps import (
    Seen,
    encoding_inputs,
    encodings,
    take_apart,
    transformer_of,
)
from .bucket_maps import (
    radius_of_all_buckets,
    settings_of,
    strength,
    strength_map,
)


class Table(NamedTuple):
    """How strong the encodings on queries, keys or values are for each key around a query.

    Attributes:
        letter: q, k or v.
        kind: bias, mean or norm, see `tools.rpe_inspection.bucket_maps.strength`.
        heads: m names.
        maps: (layers, m, S, S) float32; places as in `tools.rpe_inspection.bucket_maps.bucket_map`.
    """

    letter: str
    kind: str
    heads: list[str]
    maps: np.ndarray


class View:
    """A detector, and the n layers and m heads of its encoder that are looked at.

    Args:
        layers: numbers from 0; None for all.
        heads: mean, all, numbers, or None: the mean if all heads share their tables, else all.

    Attributes:
        layers: as given, or all.
        heads: m names.

    Raises:
        UserError: there is no such layer or head.
    """

    def __init__(self, detector: Detector, layers: list[int] | None, heads: str | list[int] | None):
        self.detector = detector
        encoder = transformer_of(detector.model).encoder.layers
        self.layers = _existing("--layers", layers, len(encoder))
        self.encodings = [encodings(encoder[i].self_attn) for i in self.layers]
        count = detector.args.nheads
        if heads is None:
            settings = [settings_of(rpe) for found in self.encodings for rpe in found.values()]
            heads = "mean" if all(s.shared_head for s in settings) else "all"
        self._heads = None
        self.heads = [f"mean of {count} heads"]
        if heads != "mean":
            self._heads = _existing("--heads", None if heads == "all" else heads, count)
            self.heads = [f"head {head}" for head in self._heads]

    @property
    def has_encoding(self) -> bool:
        return any(self.encodings)

    def tables(
        self, radius: int | None, seen: Seen | None, largest: tuple[int, int]
    ) -> list[Table]:
        """The encodings' tables, laid out around a query; NaN where training had no such offset.

        Args:
            radius: of the maps in tokens; None for one at which all buckets show that maps reach.
            seen: one image, whose queries and keys contextual encodings are measured with; None
                for the norm of their vectors.
            largest: see `trained_map`.
        """
        found = []
        farthest = max(1, *(side - 1 for side in (*largest, *(seen.hw if seen else ()))))
        for letter, first in self.encodings[0].items():
            radius = radius or min(radius_of_all_buckets(settings_of(first)), farthest)
            maps = []
            for i, of_layer in zip(self.layers, self.encodings, strict=True):
                x = encoding_inputs(*seen.encoder[i]).get(letter) if seen else None
                maps.append(strength_map(letter, of_layer[letter], radius, x, largest))
            if len(maps[0]) == 1:
                heads, maps = ["all heads"], [_array(m) for m in maps]
            else:
                heads, maps = self.heads, [self._of_heads(m) for m in maps]
            found.append(Table(letter, strength(letter, first, x), heads, np.stack(maps)))
        return found

    def attention(self, seen: Seen, tokens: list[tuple[int, int]]) -> dict[str, np.ndarray]:
        """What tokens attend to in the encoder.

        Args:
            seen: one image.
            tokens: p of them, row and column in the feature map of h x w.

        Returns:
            Arrays (p, n, m, h, w) float32: attention, as the model computes it; and where
            encodings act on logits, attention_without them, and attention_term, what they add.
        """
        flat = [row * seen.hw[1] + column for row, column in tokens]
        found: dict[str, list] = {}
        for i in self.layers:
            of_tokens = take_apart(*seen.encoder[i]).of_queries(flat)
            parts = {"attention": of_tokens.weights}
            if of_tokens.term is not None:
                parts["attention_without"] = of_tokens.weights_without
                parts["attention_term"] = of_tokens.term
            for name, part in parts.items():
                maps = self._of_heads(part[0]).swapaxes(0, 1)  # (p, m, h * w)
                found.setdefault(name, []).append(maps.reshape(*maps.shape[:2], *seen.hw))
        return {name: np.stack(maps, axis=1) for name, maps in found.items()}

    def decoder(self, seen: Seen, orig_sizes: Tensor, threshold: float) -> tuple[dict, np.ndarray]:
        """What the last decoder layer's queries attend to that have found something.

        Args:
            seen: one image.
            orig_sizes: (1, 2), its height and width.
            threshold: least score of a detection.

        Returns:
            d detections as from `Detector`, and (d, h, w) float32, the mean of the heads.
        """
        result = self.detector.postprocessors["bbox"](seen.outputs, orig_sizes)[0]
        result["queries"] = torch.arange(len(result["scores"]), device=result["scores"].device)
        found = self.detector.surest(result, threshold)
        weights = take_apart(*seen.decoder).of_queries(found.pop("queries").tolist()).weights[0]
        return found, _array(weights.mean(0).unflatten(-1, seen.hw))

    def _of_heads(self, values: Tensor) -> np.ndarray:
        """(H, ...) -> (m, ...): the heads that are looked at, or their mean."""
        return _array(values.mean(0, keepdim=True) if self._heads is None else values[self._heads])


def trained_map(detector: Detector) -> tuple[int, int]:
    """Shorter and longer side of the largest feature map of a training, in tokens.

    As the checkpoint tells them: images have a shorter side of image_size, and a longer one up to
    what DETR allows.
    """
    size = detector.args.image_size
    short, long = (-(-side // stride(detector)) for side in (size, scaled(MAX_SIZE, size)))
    return short, long


def _array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def _existing(option: str, wanted: list[int] | None, count: int) -> list[int]:
    """Those of `count` numbers that are wanted; None for all."""
    for i in wanted or ():
        if i >= count:
            raise UserError(f"{option} {i}: the encoder has {count} {option[2:]}, counted from 0")
    return list(range(count)) if wanted is None else wanted
