"""Decompose the attention of a detector's layers into content and relative positions (RPE).

The numbers are the model's own: hooks record the inputs of its attention layers, and the functions
that these layers use compute queries, keys, masks and RPE terms from them.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.rpe_attention import RPEMultiheadAttention
from models.transformer import Transformer
from rpe_ops.attention import find_maps
from rpe_ops.attention.call import merge_masks

from .decomposition import Attention, capture_inputs, decompose, rpe_modules


@torch.no_grad()
def decompose_attention(layer: RPEMultiheadAttention, call: dict) -> Attention:
    """Return the attention of a layer for the inputs `call`, as from `capture_inputs`."""
    q, k, _ = layer.project(call["query"], call["key"], call["value"])
    masks = merge_masks(call.get("key_padding_mask"), call.get("attn_mask"), k, q.shape[2])
    maps = None
    if rpe_modules(layer):
        maps = find_maps(q.shape[2], k.shape[2], call.get("hw"), skip=0)
    found = decompose(q, k, k.shape[-1] ** -0.5, maps, layer.rpe_q, layer.on_keys, masks)
    if layer.rope is None or maps is None:
        return found
    # What turning changes is the term, so that without it remain the logits of the contents.
    turned_q, turned_k = layer.rope(q, k, maps.keys.height, maps.keys.width)
    return found._replace(term=turned_q @ turned_k.mT - q @ k.mT)


@torch.no_grad()
def rpe_inputs(layer: RPEMultiheadAttention, call: dict) -> dict[str, Tensor]:
    """Return the inputs (B, H, L, D) of a layer's RPE modules on queries (q) and keys (k).

    Args:
        call: the layer's own inputs, as from `capture_inputs`.
    """
    q, k, _ = layer.project(call["query"], call["key"], call["value"])
    # RPE on keys is multiplied with queries, and the reverse; see `position_terms`.
    inputs = {"q": k * k.shape[-1] ** -0.5, "k": q}
    return {letter: inputs[letter] for letter in rpe_modules(layer) if letter in inputs}


class ForwardRecord(NamedTuple):
    """A forward pass of images through a model, with the inputs of its attention layers.

    Attributes:
        outputs: of the model.
        hw: height and width of the (padded) feature map.
        encoder: the encoder's self-attention layers with their inputs.
        decoder: the last decoder layer's cross-attention with its inputs; its queries are the
            object queries.
        references: the reference boxes that it attends around, (B, Q, 4), (cx, cy, w, h) in [0, 1];
            None in a model without.
    """

    outputs: dict
    hw: tuple[int, int]
    encoder: list[tuple[RPEMultiheadAttention, dict]]
    decoder: tuple[RPEMultiheadAttention, dict]
    references: Tensor | None = None


@torch.no_grad()
def run_with_attention(model: nn.Module, samples) -> ForwardRecord:
    """Run a detector, with or without a mask head, and record its attention layers' inputs."""
    transformer = transformer_of(model)
    encoder = [layer.self_attn for layer in transformer.encoder.layers]
    decoder = transformer.decoder.layers[-1].multihead_attn
    references = transformer.decoder.references
    modules = [transformer, decoder, *encoder, *([] if references is None else [references])]
    with capture_inputs(modules) as calls:
        outputs = model(samples)
    hw = tuple(calls[0]["src"].shape[-2:])
    boxes = None if references is None else calls.pop()["logits"].sigmoid()
    encoded = list(zip(encoder, calls[2:], strict=True))
    return ForwardRecord(outputs, hw, encoded, (decoder, calls[1]), boxes)


def transformer_of(model: nn.Module) -> Transformer:
    """Return the transformer of a detector with or without a mask head."""
    return getattr(model, "detr", model).transformer
