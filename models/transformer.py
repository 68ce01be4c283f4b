"""DETR's transformer: an encoder with relative position encoding (RPE), and a decoder.

It differs from torch.nn.Transformer in three ways: absolute positions (APE) are added to queries
and keys in every attention, the decoder returns the output of each of its layers, and the encoder's
self-attention can have RPE. All sequences are (length, batch, features).
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .layers import Dropout, Linear
from .rpe_attention import RPEMultiheadAttention
from .rpe_attention.continuous_bias import ContinuousBias
from .rpe_attention.enc_rpe2d import Encoding, parse_encoding
from .rpe_attention.rotary import MixedRotary


class Transformer(nn.Module):
    """Encoder and decoder.

    Args:
        normalize_before: pre-norm layers instead of post-norm.
        rpe_config: encoding of the encoder's self-attention, from `parse_encoding`.
        gradient_checkpointing: keep only the inputs of each layer for the backward pass.
        attention: how the encoder computes attention, see `rpe_ops.attention`.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        normalize_before: bool = False,
        rpe_config: Encoding | None = None,
        gradient_checkpointing: bool = False,
        attention: str = "auto",
    ):
        super().__init__()
        self.d_model = d_model
        self.nhead = nhead
        sizes = (d_model, nhead, dim_feedforward, dropout, normalize_before)
        self.encoder = TransformerEncoder(
            [
                TransformerEncoderLayer(*sizes, rpe_config, attention)
                for _ in range(num_encoder_layers)
            ],
            nn.LayerNorm(d_model) if normalize_before else None,
            gradient_checkpointing,
        )
        self.decoder = TransformerDecoder(
            [TransformerDecoderLayer(*sizes) for _ in range(num_decoder_layers)],
            nn.LayerNorm(d_model),
            gradient_checkpointing,
        )
        # RPE tables included: in the detector they start random, not at zero as in `irpe`.
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        # These have first values of their own.
        for module in self.modules():
            if isinstance(module, MixedRotary | ContinuousBias):
                module.reset_parameters()

    def forward(
        self, src: Tensor, mask: Tensor, query_embed: Tensor, pos_embed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode a feature map and decode the object queries.

        Args:
            src: (B, C, H, W) feature map.
            mask: (B, H, W) bool, True on padding.
            query_embed: (Q, C).
            pos_embed: (B, C, H, W), APE.

        Returns:
            Outputs of all decoder layers (layers, B, Q, C), encoder memory (B, C, H, W).
        """
        batch, _, *hw = src.shape
        pos = pos_embed.flatten(2).permute(2, 0, 1)
        padding = mask.flatten(1)
        query_pos = query_embed[:, None].expand(-1, batch, -1)
        memory = self.encoder(src.flatten(2).permute(2, 0, 1), padding, pos, tuple(hw))
        hidden = self.decoder(torch.zeros_like(query_pos), memory, padding, pos, query_pos)
        return hidden.transpose(1, 2), memory.permute(1, 2, 0).unflatten(2, hw)


class LayerStack(nn.Module):
    """Base of encoder and decoder: layers, a final norm, and how layers are run."""

    def __init__(
        self, layers: list[nn.Module], norm: nn.Module | None, gradient_checkpointing: bool = False
    ):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.gradient_checkpointing = gradient_checkpointing

    def run(self, layer: nn.Module, *inputs) -> Tensor:
        """Run a layer, keeping only its inputs for the backward pass if so configured."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


class TransformerEncoder(LayerStack):
    """The encoder; its final norm is None unless layers are pre-norm."""

    def forward(self, src: Tensor, padding: Tensor, pos: Tensor, hw: tuple[int, int]) -> Tensor:
        """Encode a flattened feature map.

        Args:
            src, pos: (H * W, B, C).
            padding: (B, H * W) bool, True on padding.
            hw: (H, W).

        Returns:
            (H * W, B, C).
        """
        for layer in self.layers:
            src = self.run(layer, src, padding, pos, hw)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(LayerStack):
    """The decoder, which returns all layers' outputs: each one is supervised in training."""

    norm: nn.Module

    def forward(
        self, tgt: Tensor, memory: Tensor, padding: Tensor, pos: Tensor, query_pos: Tensor
    ) -> Tensor:
        """Decode object queries.

        Args:
            tgt, query_pos: (Q, B, C).
            memory, pos: (H * W, B, C).
            padding: (B, H * W) bool, True on padding.

        Returns:
            (layers, Q, B, C).
        """
        # Made additive once, not in each layer.
        padding = torch.zeros_like(padding, dtype=pos.dtype).masked_fill_(padding, -torch.inf)
        outputs = []
        for layer in self.layers:
            tgt = self.run(layer, tgt, memory, padding, pos, query_pos)
            outputs.append(self.norm(tgt))
        return torch.stack(outputs)


class FeedForward(nn.Module):
    """Base of both kinds of layers: the feed-forward block, with published checkpoints' names."""

    def __init__(self, d_model: int, dim_feedforward: int, dropout: float):
        super().__init__()
        self.linear1 = Linear(d_model, dim_feedforward)
        self.linear2 = Linear(dim_feedforward, d_model)
        self.dropout = Dropout(dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        """(..., d_model) -> (..., d_model)."""
        rows = x.flatten(0, -2)  # once, or each product would do it, and undo it
        return self.linear2(self.dropout(F.relu(self.linear1(rows)))).view_as(x)


class TransformerEncoderLayer(FeedForward):
    """Self-attention with RPE, then the feed-forward block."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        normalize_before: bool = False,
        rpe_config: Encoding | None = None,
        attention: str = "auto",
    ):
        super().__init__(d_model, dim_feedforward, dropout)
        self.self_attn = RPEMultiheadAttention(
            d_model, nhead, dropout, rpe_config=rpe_config, attention=attention
        )
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.normalize_before = normalize_before

    def attend(self, x: Tensor, padding: Tensor, pos: Tensor, hw: tuple[int, int]) -> Tensor:
        """Self-attention; shapes as in `forward`."""
        q = k = x + pos
        return self.self_attn(q, k, x, padding, need_weights=False, hw=hw)[0]

    def forward(self, src: Tensor, padding: Tensor, pos: Tensor, hw: tuple[int, int]) -> Tensor:
        """Run the layer on src, pos: (H * W, B, C) and padding: (B, H * W); returns src's shape."""
        if self.normalize_before:
            src = src + self.dropout(self.attend(self.norm1(src), padding, pos, hw))
            return src + self.dropout(self.feed_forward(self.norm2(src)))
        src = self.norm1(src + self.dropout(self.attend(src, padding, pos, hw)))
        return self.norm2(src + self.dropout(self.feed_forward(src)))


class TransformerDecoderLayer(FeedForward):
    """Self-attention of object queries, attention to the image, then the feed-forward block."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        normalize_before: bool = False,
    ):
        super().__init__(d_model, dim_feedforward, dropout)
        self.self_attn = RPEMultiheadAttention(d_model, nhead, dropout)
        self.multihead_attn = RPEMultiheadAttention(d_model, nhead, dropout)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.normalize_before = normalize_before

    def attend_queries(self, x: Tensor, query_pos: Tensor) -> Tensor:
        """Self-attention of the queries; shapes as in `forward`."""
        q = k = x + query_pos
        return self.self_attn(q, k, x, need_weights=False)[0]

    def attend_memory(
        self, x: Tensor, query_pos: Tensor, memory: Tensor, padding: Tensor, pos: Tensor
    ) -> Tensor:
        """Attention of the queries to the image; shapes as in `forward`."""
        return self.multihead_attn(
            x + query_pos, memory + pos, memory, key_padding_mask=padding, need_weights=False
        )[0]

    def forward(
        self, tgt: Tensor, memory: Tensor, padding: Tensor, pos: Tensor, query_pos: Tensor
    ) -> Tensor:
        """Run the layer on tgt, query_pos: (Q, B, C), memory, pos: (H * W, B, C) -> (Q, B, C)."""
        image = (memory, padding, pos)
        if self.normalize_before:
            tgt = tgt + self.dropout(self.attend_queries(self.norm1(tgt), query_pos))
            tgt = tgt + self.dropout(self.attend_memory(self.norm2(tgt), query_pos, *image))
            return tgt + self.dropout(self.feed_forward(self.norm3(tgt)))
        tgt = self.norm1(tgt + self.dropout(self.attend_queries(tgt, query_pos)))
        tgt = self.norm2(tgt + self.dropout(self.attend_memory(tgt, query_pos, *image)))
        return self.norm3(tgt + self.dropout(self.feed_forward(tgt)))


def build_transformer(args: argparse.Namespace) -> Transformer:
    """Build the transformer of `args`."""
    return Transformer(
        d_model=args.hidden_dim,
        nhead=args.nheads,
        num_encoder_layers=args.enc_layers,
        num_decoder_layers=args.dec_layers,
        dim_feedforward=args.dim_feedforward,
        dropout=args.dropout,
        normalize_before=args.pre_norm,
        rpe_config=parse_encoding(args.enc_rpe2d),
        gradient_checkpointing=args.gradient_checkpointing,
        attention=args.attention,
    )
