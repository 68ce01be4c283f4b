"""Absolute position encodings (APE) of a feature map, added to queries and keys."""

import argparse
import math

import torch
from torch import Tensor, nn

from util.errors import UserError
from util.misc import NestedTensor


class PositionEmbeddingSine(nn.Module):
    """Sines and cosines of y, then of x, each scaled to 0 .. 2*pi over the unpadded image.

    This generalises the encoding of "Attention Is All You Need" to images (DETR, appendix A.4).

    Args:
        num_pos_feats: features for each of y and x.
        temperature: ratio of the longest to the shortest period.
    """

    def __init__(self, num_pos_feats: int = 64, temperature: float = 10000):
        super().__init__()
        self.num_pos_feats = num_pos_feats
        self.temperature = temperature

    def forward(self, features: NestedTensor) -> Tensor:
        """Return the APE (B, 2 * num_pos_feats, H, W) of a feature map with mask (B, H, W)."""
        assert features.mask is not None  # the backbone resizes that of the images
        inside = ~features.mask
        feature = torch.arange(self.num_pos_feats, dtype=torch.float32, device=inside.device)
        period = self.temperature ** (2 * (feature // 2) / self.num_pos_feats)
        axes = []
        for axis in (1, 2):
            # Counts 1, 2, ... over the unpadded image and stays at the last number on padding.
            steps = inside.cumsum(axis, dtype=torch.float32)
            last = steps.narrow(axis, steps.shape[axis] - 1, 1)
            axes.append(steps / (last + 1e-6))
        angle = torch.stack(axes, 3)[..., None] * (2 * math.pi) / period  # (B, H, W, 2, features)
        # Even features are sines and odd ones cosines, two of them with each period.
        encoding = torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), -1)
        return encoding.flatten(3).permute(0, 3, 1, 2)


class PositionEmbeddingLearned(nn.Module):
    """A trained vector for each column, concatenated with one for each row."""

    MAX_SIZE = 50  # rows and columns, fixed by published checkpoints

    def __init__(self, num_pos_feats: int = 256):
        super().__init__()
        self.row_embed = nn.Embedding(self.MAX_SIZE, num_pos_feats)
        self.col_embed = nn.Embedding(self.MAX_SIZE, num_pos_feats)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, features: NestedTensor) -> Tensor:
        """Return the APE (B, 2 * num_pos_feats, H, W) of a feature map (B, C, H, W).

        Raises:
            UserError: the map has more than MAX_SIZE rows or columns.
        """
        batch, _, height, width = features.tensors.shape
        if max(height, width) > self.MAX_SIZE:
            raise UserError(
                f"--position_embedding learned has {self.MAX_SIZE} rows and columns, the feature "
                f"map has {height} x {width}; use smaller images or --position_embedding sine"
            )
        x = self.col_embed.weight[:width].expand(height, -1, -1)
        y = self.row_embed.weight[:height, None].expand(-1, width, -1)
        return torch.cat([x, y], dim=-1).permute(2, 0, 1).expand(batch, -1, -1, -1)


def build_position_encoding(args: argparse.Namespace) -> nn.Module:
    """Build the APE that --position_embedding names."""
    num_pos_feats = args.hidden_dim // 2
    if args.position_embedding == "learned":
        return PositionEmbeddingLearned(num_pos_feats)
    return PositionEmbeddingSine(num_pos_feats)
