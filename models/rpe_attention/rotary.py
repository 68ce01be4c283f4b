"""Rotary position encoding of maps (RoPE), axial and mixed, as RoPE-ViT has it.

Su et al., RoFormer (2021); Heo et al., Rotary Position Embedding for Vision Transformer (ECCV 2024,
https://arxiv.org/abs/2403.13298).

Features 2 i and 2 i + 1 of a head, i = 0 .. D / 2 - 1, are a complex number. In the query or key of
the token in row y and column x it is multiplied with exp(1j a_i(y, x)), that is

    (e, o) -> (e cos a - o sin a, o cos a + e sin a)

The angles are linear in y and x, so that the product of a query and a key depends on their offset
alone: on the angle of (query row - key row, query column - key column). Coordinates are those of
the feature map in tokens, counted from its top left corner; padding, which is at the right and at
the bottom, changes none. Values are not turned.

    axial   a_i = f_i x,  a_(D/4 + i) = f_i y,  f_i = base ** (-i / (D / 4)),  i = 0 .. D / 4 - 1
    mixed   a_i = u_i x + v_i y,  with u_i and v_i trained, for each head

No encoding is the same as all frequencies at zero, so that neither of both starts neutral: in a
model whose weights were trained without, attention changes at once, and has to be trained.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# The published ones, for maps of 14 x 14 tokens and more. A turn of the slowest of 8 axial
# frequencies (D = 32) takes 353 tokens, more than any image's map has.
AXIAL_BASE = 100.0
MIXED_BASE = 10.0


@dataclass(frozen=True)
class RotaryConfig:
    """Rotary encoding of an attention layer.

    Attributes:
        mixed: frequencies of both axes are trained, for each head; else they are fixed.
        base: of the frequencies; of mixed ones as they start.
    """

    mixed: bool = False
    base: float = AXIAL_BASE


def magnitudes(head_dim: int, base: float) -> Tensor:
    """Return base ** (-i / (D / 4)): (D / 4,) float32, computed in float64.

    Raises:
        ValueError: head_dim is not a multiple of 4.
    """
    if head_dim < 4 or head_dim % 4:
        raise ValueError(
            f"rotary encoding needs heads of a multiple of 4 features, these have {head_dim}"
        )
    quarter = head_dim // 4
    return torch.tensor([base ** (-i / quarter) for i in range(quarter)])


class Rotary(nn.Module):
    """Base of both: turns queries and keys by the angles that `angles` returns."""

    freqs: Tensor

    def angles(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the angles at all pairs of rows and columns.

        Args:
            rows, columns: (h,) and (w,), coordinates in tokens, of the angles' dtype.

        Returns:
            (H or 1, h, w, D / 2).
        """
        raise NotImplementedError

    def forward(self, q: Tensor, k: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Turn queries and keys (B, H, L, D) of a map of L = height * width tokens, row by row.

        Angles are computed in float32 or float64, also where q and k have 16 bits.

        Raises:
            ValueError: there are other than L queries or keys.
        """
        if q.shape[2] != height * width or k.shape[2] != height * width:
            raise ValueError(
                f"{q.shape[2]} queries and {k.shape[2]} keys are not those of one map of {height} x"
                f" {width} tokens, as rotary encoding needs them"
            )
        dtype = torch.promote_types(self.freqs.dtype, torch.float32)
        rows, columns = (torch.arange(n, device=q.device).to(dtype) for n in (height, width))
        angles = self.angles(rows, columns).flatten(1, 2)
        cos, sin = angles.cos(), angles.sin()
        return turned(q, cos, sin), turned(k, cos, sin)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs of neighbouring features of x (B, H, L, D); cos, sin: (H or 1, L, D / 2)."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    pairs = (even * cos - odd * sin, odd * cos + even * sin)
    return torch.stack(pairs, dim=-1).flatten(-2).to(x.dtype)


class AxialRotary(Rotary):
    """The first half of a head's features turns with the column, the second half with the row.

    `freqs` (D / 4,) is not trained. It is in the state dict nevertheless, so that weights alone
    tell that they were trained with this encoding, and with which base.
    """

    def __init__(self, head_dim: int, base: float = AXIAL_BASE):
        super().__init__()
        self.register_buffer("freqs", magnitudes(head_dim, base))

    def angles(self, rows: Tensor, columns: Tensor) -> Tensor:
        """See `Rotary.angles`; (1, h, w, D / 2), the same in all heads."""
        # Not len(), which would make a size constant in an exported graph.
        shape = (rows.shape[0], columns.shape[0], self.freqs.shape[0])
        freqs = self.freqs.to(rows.dtype)
        along_columns = (columns[:, None] * freqs)[None, :].expand(shape)
        along_rows = (rows[:, None] * freqs)[:, None].expand(shape)
        return torch.cat([along_columns, along_rows], dim=-1)[None]


class MixedRotary(Rotary):
    """Each pair of features turns with row and column, at two frequencies that are trained.

    `freqs` (2, H, D / 2) are those of columns, then of rows. As published, each head starts with a
    random angle r, with the axes turned by it and magnitudes m_i = base ** (-i / (D / 4)):

        (u_i, v_i) = m_i (cos r, sin r),  (u_(D/4 + i), v_(D/4 + i)) = m_i (-sin r, cos r)
    """

    def __init__(self, head_dim: int, num_heads: int, base: float = MIXED_BASE):
        super().__init__()
        self.base = base
        magnitudes(head_dim, base)  # checks head_dim
        self.freqs = nn.Parameter(torch.empty(2, num_heads, head_dim // 2))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw an angle for each head, from the default generator."""
        _, num_heads, half = self.freqs.shape
        sizes = magnitudes(2 * half, self.base)
        first = torch.rand(num_heads, 1) * (2 * math.pi)
        angles = torch.cat(
            [first.expand(-1, half // 2), first.expand(-1, half // 2) + math.pi / 2], 1
        )
        self.freqs.copy_(torch.stack([angles.cos(), angles.sin()]) * sizes.repeat(2))

    def angles(self, rows: Tensor, columns: Tensor) -> Tensor:
        """See `Rotary.angles`; (H, h, w, D / 2)."""
        of_columns, of_rows = self.freqs.to(rows.dtype)[:, :, None]  # (H, 1, D / 2) each
        along_columns = columns[:, None] * of_columns
        along_rows = rows[:, None] * of_rows
        return along_rows[:, :, None] + along_columns[:, None]


def build_rotary(config: RotaryConfig, head_dim: int, num_heads: int) -> Rotary:
    """Build the rotary encoding of one attention layer.

    Raises:
        ValueError: head_dim is not a multiple of 4.
    """
    if config.mixed:
        return MixedRotary(head_dim, num_heads, config.base)
    return AxialRotary(head_dim, config.base)
