"""Decompose the attention of a detector's layers into content and relative positions (RPE).

The numbers are the model's own: hooks record the inputs of its attention layers, and the functions
that these layers use compute queries, keys, masks and RPE terms from them.
"""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.rpe_attention import RPEMultiheadAttention
from models.transformer import Transformer
from rpe_ops.attention import find_maps
from rpe_ops.attention.call import merge_masks, rpe_terms


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
def decompose_attention(layer: RPEMultiheadAttention, call: dict) -> Attention:
    """Return the attention of a layer for the inputs `call`, as from `capture_inputs`."""
    q, k, _ = layer.project(call["query"], call["key"], call["value"])
    logits = q @ k.transpose(2, 3)
    masks = merge_masks(call.get("key_padding_mask"), call.get("attn_mask"), k, q.shape[2])
    if masks is not None:
        logits += masks
    terms = []
    if rpe_modules(layer):
        maps = find_maps(q.shape[2], k.shape[2], call.get("hw"), skip=0)
        terms = rpe_terms(q, k, k.shape[-1] ** -0.5, maps, layer.rpe_q, layer.rpe_k)
    return Attention(logits, sum(terms).expand_as(logits) if terms else None)


def rpe_modules(layer: RPEMultiheadAttention) -> dict[str, nn.Module]:
    """Return the RPE modules of a layer by where they act: q, k, v."""
    modules = {letter: getattr(layer, f"rpe_{letter}") for letter in "qkv"}
    return {letter: rpe for letter, rpe in modules.items() if rpe is not None}


@torch.no_grad()
def rpe_inputs(layer: RPEMultiheadAttention, call: dict) -> dict[str, Tensor]:
    """Return the inputs (B, H, L, D) of a layer's RPE modules on queries (q) and keys (k).

    Args:
        call: the layer's own inputs, as from `capture_inputs`.
    """
    q, k, _ = layer.project(call["query"], call["key"], call["value"])
    # RPE on keys is multiplied with queries, and the reverse; see `position_terms`.
    inputs = {"q": k * k.shape[-1] ** -0.5, "k": q}
    return {letter: inputs[letter] for letter in rpe_modules(layer) if letter != "v"}


class ForwardRecord(NamedTuple):
    """A forward pass of images through a model, with the inputs of its attention layers.

    Attributes:
        outputs: of the model.
        hw: height and width of the (padded) feature map.
        encoder: the encoder's self-attention layers with their inputs.
        decoder: the last decoder layer's cross-attention with its inputs; its queries are the
            object queries.
    """

    outputs: dict
    hw: tuple[int, int]
    encoder: list[tuple[RPEMultiheadAttention, dict]]
    decoder: tuple[RPEMultiheadAttention, dict]


@torch.no_grad()
def run_with_attention(model: nn.Module, samples) -> ForwardRecord:
    """Run a detector, with or without a mask head, and record its attention layers' inputs."""
    transformer = transformer_of(model)
    encoder = [layer.self_attn for layer in transformer.encoder.layers]
    decoder = transformer.decoder.layers[-1].multihead_attn
    modules = [transformer, decoder, *encoder]
    with capture_inputs(modules) as calls:
        outputs = model(samples)
    hw = tuple(calls[0]["src"].shape[-2:])
    return ForwardRecord(
        outputs, hw, list(zip(encoder, calls[2:], strict=True)), (decoder, calls[1])
    )


def transformer_of(model: nn.Module) -> Transformer:
    """Return the transformer of a detector with or without a mask head."""
    return getattr(model, "detr", model).transformer
