"""Decompose attention into content and relative positions (RPE), whatever layer computes it."""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rpe_ops.attention.call import rpe_terms
from rpe_ops.irpe import MapPair

from .formula_maps import TITLES


class Attention(NamedTuple):
    """Attention of one layer, for all of its queries or some.

    Attributes:
        logits: (B, H, Lq, Lk), q . k / sqrt(D) plus masks, without RPE.
        term: (B, H, Lq, Lk), what RPE on keys and queries adds to the logits; None without such.
            RPE on values changes neither logits nor weights.
    """

    logits: Tensor
    term: Tensor | None

    def select_queries(self, tokens: Sequence[int]) -> "Attention":
        """Return the rows of some queries: Lq = len(tokens)."""
        return Attention(*(None if part is None else part[:, :, list(tokens)] for part in self))

    @property
    def weights(self) -> Tensor:
        """The weights (B, H, Lq, Lk) of the layer, before dropout."""
        logits = self.logits if self.term is None else self.logits + self.term
        return logits.softmax(-1)

    @property
    def weights_without(self) -> Tensor:
        """The weights (B, H, Lq, Lk) that the layer would have without RPE."""
        return self.logits.softmax(-1)


@contextlib.contextmanager
def capture_inputs(modules: Sequence[nn.Module]) -> Iterator[list[dict]]:
    """Record the inputs of modules while this context lasts.

    Yields:
        One dict per module with the arguments of its latest call, by the names of `forward`'s
        parameters, without those left at their default; empty until the module is called.
    """
    calls: list[dict] = [{} for _ in modules]

    def keep(module: nn.Module, args: tuple, kwargs: dict, call: dict) -> None:
        call.clear()
        call.update(inspect.signature(module.forward).bind(*args, **kwargs).arguments)

    hooks = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs, call=call: keep(module, args, kwargs, call),
            with_kwargs=True,
        )
        for module, call in zip(modules, calls, strict=True)
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def decompose(
    q: Tensor,
    k: Tensor,
    scale: float,
    maps: MapPair | None,
    rpe_q: nn.Module | None,
    rpe_k: nn.Module | None,
    masks: Tensor | None = None,
) -> Attention:
    """Return the attention of queries q (B, H, Lq, D), multiplied by `scale` already, to keys k.

    Args:
        k: (B, H, Lk, D).
        maps: of queries and keys; None without RPE.
        masks: what is added to the logits besides, broadcastable to (B, H, Lq, Lk).
    """
    logits = q @ k.transpose(2, 3)
    if masks is not None:
        logits += masks
    terms = rpe_terms(q, k, scale, maps, rpe_q, rpe_k)
    return Attention(logits, sum(terms).expand_as(logits) if terms else None)


def rpe_modules(layer: nn.Module) -> dict[str, nn.Module]:
    """Return the encodings of a layer: RPE by where it acts, q, k, v, else by the module's name.

    Those without tables are cpb and rope, see `models.rpe_attention`.
    """
    modules = {letter: getattr(layer, f"rpe_{letter}") for letter in "qkv"}
    modules |= {name: getattr(layer, name, None) for name in TITLES}
    return {name: module for name, module in modules.items() if module is not None}
