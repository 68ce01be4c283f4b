"""Absolute position encodings of a feature map, added to queries and keys."""

import argparse
import math

import torch
from torch import Tensor, nn

from util.errors import UserError
from util.misc import NestedTensor


class PositionEmbeddingSine(nn.Module):
    """Sines and cosines of y, then of x, measured from 0 to 2*pi over the unpadded image.

    Generalises the encoding of "Attention Is All You Need" to images (DETR, appendix A.4).
    """

    def __init__(self, num_pos_feats: int = 64, temperature: float = 10000):
        super().__init__()
        self.num_pos_feats = num_pos_feats
        self.temperature = temperature

    def forward(self, features: NestedTensor) -> Tensor:
        """Feature map with mask (B, H, W) -> (B, 2 * num_pos_feats, H, W)."""
        inside = ~features.mask
        feature = torch.arange(self.num_pos_feats, dtype=torch.float32, device=inside.device)
        period = self.temperature ** (2 * (feature // 2) / self.num_pos_feats)
        axes = []
        for axis in (1, 2):
            steps = inside.cumsum(axis, dtype=torch.float32)
            last = steps.narrow(axis, steps.shape[axis] - 1, 1)
            angle = (steps / (last + 1e-6) * 2 * math.pi)[..., None] / period
            axes.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), 4).flatten(3))
        return torch.cat(axes, dim=3).permute(0, 3, 1, 2)


class PositionEmbeddingLearned(nn.Module):
    """One trained vector for every column, followed by one for every row."""

    MAX_SIZE = 50  # rows and columns, fixed by published checkpoints

    def __init__(self, num_pos_feats: int = 256):
        super().__init__()
        self.row_embed = nn.Embedding(self.MAX_SIZE, num_pos_feats)
        self.col_embed = nn.Embedding(self.MAX_SIZE, num_pos_feats)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, features: NestedTensor) -> Tensor:
        """Feature map (B, C, H, W) -> (B, 2 * num_pos_feats, H, W)."""
        batch, _, height, width = features.tensors.shape
        if max(height, width) > self.MAX_SIZE:
            raise UserError(
                f"--position_embedding learned knows {self.MAX_SIZE} rows and columns, the feature "
                f"map has {height} x {width}; use smaller images or --position_embedding sine"
            )
        x = self.col_embed.weight[:width].expand(height, -1, -1)
        y = self.row_embed.weight[:height, None].expand(-1, width, -1)
        return torch.cat([x, y], dim=-1).permute(2, 0, 1).expand(batch, -1, -1, -1)


def build_position_encoding(args: argparse.Namespace) -> nn.Module:
    num_pos_feats = args.hidden_dim // 2
    if args.position_embedding == "learned":
        return PositionEmbeddingLearned(num_pos_feats)
    return PositionEmbeddingSine(num_pos_feats)
