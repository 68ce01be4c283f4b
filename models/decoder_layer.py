"""A layer of DETR's decoder; `models.transformer` has the stacks and the encoder's layer."""

from torch import Tensor, nn

from .box_bias import BoxBias, attend_around_boxes
from .layers import FeedForward
from .rpe_attention import RPEMultiheadAttention


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

    def attend_queries(
        self, x: Tensor, query_pos: Tensor, box_bias: BoxBias | None = None
    ) -> Tensor:
        """Self-attention of the queries; shapes as in `forward`."""
        q = k = x + query_pos
        bias = None if box_bias is None else box_bias.pairs
        return self.self_attn(q, k, x, need_weights=False, attn_mask=bias)[0]

    def attend_memory(
        self,
        x: Tensor,
        query_pos: Tensor,
        memory: Tensor,
        padding: Tensor,
        pos: Tensor,
        box_bias: BoxBias | None = None,
    ) -> Tensor:
        """Attention of the queries to the image; shapes as in `forward`."""
        if box_bias is not None:
            inputs = (x + query_pos, memory + pos, memory, padding)
            return attend_around_boxes(self.multihead_attn, *inputs, box_bias)
        return self.multihead_attn(
            x + query_pos, memory + pos, memory, key_padding_mask=padding, need_weights=False
        )[0]

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        padding: Tensor,
        pos: Tensor,
        query_pos: Tensor,
        box_bias: BoxBias | None = None,
    ) -> Tensor:
        """Run the layer on tgt, query_pos: (Q, B, C), memory, pos: (H * W, B, C) -> (Q, B, C).

        With `box_bias`, padding (B, H * W) is additive: -inf on padding.
        """
        image = (memory, padding, pos, box_bias)
        if self.normalize_before:
            tgt = tgt + self.dropout(self.attend_queries(self.norm1(tgt), query_pos, box_bias))
            tgt = tgt + self.dropout(self.attend_memory(self.norm2(tgt), query_pos, *image))
            return tgt + self.dropout(self.feed_forward(self.norm3(tgt)))
        tgt = self.norm1(tgt + self.dropout(self.attend_queries(tgt, query_pos, box_bias)))
        tgt = self.norm2(tgt + self.dropout(self.attend_memory(tgt, query_pos, *image)))
        return self.norm3(tgt + self.dropout(self.feed_forward(tgt)))
