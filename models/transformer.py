"""DETR's transformer: an encoder with relative position encoding (RPE), and a decoder.

It differs from torch.nn.Transformer in four ways: absolute positions (APE) are added to queries
and keys in every attention, the decoder returns the output of each of its layers, the encoder's
self-attention can have RPE, and the decoder's attention can depend on reference boxes of the
queries. All sequences are (length, batch, features).
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .box_bias import ReferenceBoxes
from .box_bias.dec_rpe import DecRPE, parse_dec_rpe
from .decoder_layer import TransformerDecoderLayer
from .layers import FeedForward
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
        dec_rpe: gives the decoder's queries reference boxes, which their attention depends on.
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
        dec_rpe: DecRPE | None = None,
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
            None if dec_rpe is None else ReferenceBoxes(d_model, nhead, dec_rpe),
        )
        # RPE tables included: in the detector they start random, not at zero as in `irpe`.
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        # These have first values of their own.
        for module in self.modules():
            if isinstance(module, MixedRotary | ContinuousBias):
                module.reset_parameters()
        if self.decoder.references is not None:
            self.decoder.references.start_neutral()

    def forward(
        self,
        src: Tensor,
        mask: Tensor,
        query_embed: Tensor,
        pos_embed: Tensor,
        box_head: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode a feature map and decode the object queries.

        Args:
            src: (B, C, H, W) feature map.
            mask: (B, H, W) bool, True on padding.
            query_embed: (Q, C).
            pos_embed: (B, C, H, W), APE.
            box_head: see `TransformerDecoder.forward`.

        Returns:
            Outputs of all decoder layers (layers, B, Q, C), encoder memory (B, C, H, W).
        """
        batch, _, *hw = src.shape
        pos = pos_embed.flatten(2).permute(2, 0, 1)
        padding = mask.flatten(1)
        query_pos = query_embed[:, None].expand(-1, batch, -1)
        memory = self.encoder(src.flatten(2).permute(2, 0, 1), padding, pos, tuple(hw))
        image = (memory, padding, pos)
        hidden = self.decoder(torch.zeros_like(query_pos), *image, query_pos, mask, box_head)
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

    def __init__(
        self,
        layers: list[nn.Module],
        norm: nn.Module,
        gradient_checkpointing: bool = False,
        references: ReferenceBoxes | None = None,
    ):
        super().__init__(layers, norm, gradient_checkpointing)
        self.references = references

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        padding: Tensor,
        pos: Tensor,
        query_pos: Tensor,
        mask: Tensor | None = None,
        box_head: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Decode object queries.

        Args:
            tgt, query_pos: (Q, B, C).
            memory, pos: (H * W, B, C).
            padding: (B, H * W) bool, True on padding.
            mask: (B, H, W), the same; read with reference boxes only.
            box_head: predicts changes of reference boxes, (..., C) -> (..., 4), of a layer's
                normalised output; called with reference boxes only, without gradient.

        Returns:
            (layers, Q, B, C).
        """
        # Made additive once, not in each layer.
        padding = torch.zeros_like(padding, dtype=pos.dtype).masked_fill_(padding, -torch.inf)
        outputs: list[Tensor] = []
        references, boxes, bias = self.references, None, None
        for layer in self.layers:
            if references is not None:
                assert mask is not None and box_head is not None
                last = outputs[-1] if outputs else query_pos
                boxes = references.next_boxes(last.transpose(0, 1), boxes, box_head)
                bias = references(boxes, mask)
            tgt = self.run(layer, tgt, memory, padding, pos, query_pos, bias)
            outputs.append(self.norm(tgt))
        return torch.stack(outputs)


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
        dec_rpe=parse_dec_rpe(args.dec_rpe),
    )
