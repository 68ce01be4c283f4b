"""The attention of a detector's layers, taken apart: with relative positions and without.

The numbers are the model's own: hooks keep what its attention layers were called with, and the
functions that these layers use compute queries, keys, masks and the encodings' terms from it.
"""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.rpe_attention import RPEMultiheadAttention
from models.rpe_attention.backends.call import merge_masks, rpe_terms
from models.transformer import Transformer


class Attention(NamedTuple):
    """Attention of one layer, of some of its queries or all.

    Attributes:
        logits: (B, H, Lq, Lk), q . k / sqrt(D) and masks, without relative positions.
        term: (B, H, Lq, Lk), what relative positions on keys and queries add to the logits; None
            where there are none. Those on values leave logits and weights as they are.
    """

    logits: Tensor
    term: Tensor | None

    def of_queries(self, tokens: Sequence[int]) -> "Attention":
        """The rows of some queries: all shapes with Lq = len(tokens)."""
        return Attention(*(None if part is None else part[:, :, list(tokens)] for part in self))

    @property
    def weights(self) -> Tensor:
        """(B, H, Lq, Lk): what the layer attends to, before dropout."""
        logits = self.logits if self.term is None else self.logits + self.term
        return logits.softmax(-1)

    @property
    def weights_without(self) -> Tensor:
        """(B, H, Lq, Lk): what it would attend to without relative positions."""
        return self.logits.softmax(-1)


@contextlib.contextmanager
def called_with(modules: Sequence[nn.Module]) -> Iterator[list[dict]]:
    """While this context lasts, keep what modules are called with.

    Yields:
        One dict a module: the arguments of its latest call by the names that `forward` gives
        them, without those left at their default; empty until it is called.
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
def take_apart(layer: RPEMultiheadAttention, call: dict) -> Attention:
    """The attention of a layer.

    Args:
        call: what it was called with, from `called_with`.
    """
    q, k, _ = layer.project(call["query"], call["key"], call["value"])
    logits = q @ k.transpose(2, 3)
    masks = merge_masks(call.get("key_padding_mask"), call.get("attn_mask"), k, q.shape[2])
    if masks is not None:
        logits += masks
    terms = rpe_terms(q, k, call.get("hw") or (None, None), layer.rpe_q, layer.rpe_k)
    return Attention(logits, sum(terms).expand_as(logits) if terms else None)


def encodings(layer: RPEMultiheadAttention) -> dict[str, nn.Module]:
    """The encodings of a layer by where they act: q, k, v."""
    found = {letter: getattr(layer, f"rpe_{letter}") for letter in "qkv"}
    return {letter: rpe for letter, rpe in found.items() if rpe is not None}


def encoding_inputs(layer: RPEMultiheadAttention, call: dict) -> dict[str, Tensor]:
    """What a layer calls its encodings on queries (q) and keys (k) with: (B, H, L, D).

    Args:
        call: what the layer was called with, from `called_with`.
    """
    of_logits = {letter: rpe for letter, rpe in encodings(layer).items() if letter != "v"}
    with called_with(list(of_logits.values())) as calls:
        take_apart(layer, call)
    return {letter: found["x"] for letter, found in zip(of_logits, calls, strict=True)}


class Seen(NamedTuple):
    """A pass of images through a model, and what its attention layers were called with.

    Attributes:
        outputs: of the model.
        hw: height and width of the (padded) feature map.
        encoder: layers of self-attention with their calls.
        decoder: the last layer's attention to the image, with its call; its queries are the
            object queries.
    """

    outputs: dict
    hw: tuple[int, int]
    encoder: list[tuple[RPEMultiheadAttention, dict]]
    decoder: tuple[RPEMultiheadAttention, dict]


@torch.no_grad()
def look_at(model: nn.Module, samples) -> Seen:
    """Run a detector, with or without masks, on what its `forward` takes."""
    transformer = transformer_of(model)
    encoder = [layer.self_attn for layer in transformer.encoder.layers]
    decoder = transformer.decoder.layers[-1].multihead_attn
    modules = [transformer, decoder, *encoder]
    with called_with(modules) as calls:
        outputs = model(samples)
    hw = tuple(calls[0]["src"].shape[-2:])
    return Seen(outputs, hw, list(zip(encoder, calls[2:], strict=True)), (decoder, calls[1]))


def transformer_of(model: nn.Module) -> Transformer:
    """The transformer of a detector with or without masks."""
    return getattr(model, "detr", model).transformer
