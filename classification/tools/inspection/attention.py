"""Decompose the attention of a classifier's blocks into content and relative positions (RPE).

The numbers are the model's own: hooks record the inputs of its attention layers.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from classification.attention import RPEAttention
from rpe_ops.irpe import MapPair, TokenMap
from tools.rpe_inspection.decomposition import Attention, capture_inputs, decompose, rpe_modules


class Record(NamedTuple):
    """A forward pass of images through a model, with the inputs of its attention layers.

    Attributes:
        logits: of the model.
        tokens: height and width of the map, and how many extra tokens come before it.
        blocks: attention layers with their inputs, (B, L, C) each.
    """

    logits: Tensor
    tokens: TokenMap
    blocks: list[tuple[RPEAttention, Tensor]]

    def is_last(self, block: int) -> bool:
        return block == len(self.blocks) - 1


def attention_layers(model: nn.Module) -> list[RPEAttention]:
    """Return the attention of a DeiT's blocks, from the first one on."""
    return [module for module in model.modules() if isinstance(module, RPEAttention)]


@torch.no_grad()
def run_with_attention(model: nn.Module, images: Tensor) -> Record:
    """Run a DeiT on images (B, 3, H, W), and record its attention layers' inputs."""
    layers = attention_layers(model)
    with capture_inputs(layers) as calls:
        logits = model(images)
    tokens = calls[0]["attn_mask"].tokens
    return Record(logits, tokens, [(layer, call["x"]) for layer, call in zip(layers, calls)])


def shown_modules(layer: RPEAttention, is_last: bool) -> dict[str, nn.Module]:
    """Return the RPE modules of a block by where they act, without those that never learn.

    Only the extra tokens' queries of the last block reach the logits. On keys these have one bucket
    for all keys, which softmax does not see: no gradient reaches the last block's rpe_k.
    """
    modules = rpe_modules(layer)
    return {letter: rpe for letter, rpe in modules.items() if letter != "k" or not is_last}


@torch.no_grad()
def block_attention(record: Record, block: int) -> Attention:
    """Return the attention of a block; in the last one without the term of its rpe_k."""
    layer, x = record.blocks[block]
    q, k = _queries_and_keys(layer, x)
    rpe = shown_modules(layer, record.is_last(block))
    maps = MapPair(record.tokens, record.tokens)
    return decompose(q, k, layer.scale, maps, rpe.get("q"), rpe.get("k"))


@torch.no_grad()
def rpe_inputs(record: Record, block: int) -> dict[str, Tensor]:
    """Return what RPE of a block on queries (q) and keys (k) is multiplied with, (B, H, L, D).

    Extra tokens, which are nowhere on the image, are left out.
    """
    layer, x = record.blocks[block]
    q, k = _queries_and_keys(layer, x[:, record.tokens.skip :])
    return {"q": k * layer.scale, "k": q}


def _queries_and_keys(layer: RPEAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return queries, multiplied by the scale, and keys (B, H, L, D)."""
    projected = layer.qkv(x).unflatten(-1, (3, layer.num_heads, layer.head_dim))
    q, k, _ = projected.permute(2, 0, 3, 1, 4)
    return layer.q_norm(q) * layer.scale, layer.k_norm(k)
