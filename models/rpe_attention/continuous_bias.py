"""Continuous position bias: a small network computes the bias of an offset (Swin V2).

Liu et al., Swin Transformer V2 (CVPR 2022, https://arxiv.org/abs/2111.09883):

    bias(head, query, key) = 16 sigmoid(MLP(g(dy), g(dx)))[head]
    g(d) = sign(d) log2(1 + 8 |d| / n) / log2(8),  (dy, dx) = query place - key place

with one hidden layer of 512 and ReLU, whose last layer has no bias. The result is added to the
logits.

In Swin, n is the largest offset within a window, all windows have one size, and models that are
fine-tuned on larger windows keep the n of the training. Maps of a detector have many sizes, and
grow with the padding of their batch, so n is the same number for all of them here: 8 tokens, as in
windows of 9 x 9. Then g(d) = sign(d) log2(1 + |d|) / 3 is 1 / 3 for a neighbour, 1 for 7 tokens and
1.8 for 42, the length of DETR's largest map; an offset has the same bias in every map.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..autocast import without_autocast

NORM = 8  # tokens, n above
LARGEST = 16.0


@dataclass(frozen=True)
class ContinuousBiasConfig:
    """Continuous position bias of an attention layer.

    Attributes:
        hidden: width of the network.
    """

    hidden: int = 512


def log_spaced(offsets: Tensor) -> Tensor:
    """Return g of offsets in tokens, see above; any shape, float32 or float64."""
    return offsets.sign() * (1 + 8 * offsets.abs() / NORM).log2() / 3


class ContinuousBias(nn.Module):
    """The bias of all pairs of a map's tokens, as a module like those of RPE on keys.

    Its last layer starts at zero: then all pairs have the bias 8, which softmax does not see.
    """

    def __init__(self, num_heads: int, hidden: int = ContinuousBiasConfig.hidden):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, num_heads, bias=False)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the first layer as torch.nn.Linear does; zero the last one."""
        first, last = self._linear_layers()
        first.reset_parameters()
        nn.init.zeros_(last.weight)

    def _linear_layers(self) -> tuple[nn.Linear, nn.Linear]:
        return cast(nn.Linear, self.mlp[0]), cast(nn.Linear, self.mlp[2])

    def table(self, height: int, width: int) -> Tensor:
        """Return the bias of each offset, (H, 2 * height - 1, 2 * width - 1).

        The offset (dy, dx), query - key, is at [:, height - 1 + dy, width - 1 + dx]. It is computed
        in the parameters' dtype, also under autocast: 16 bits tell few biases near 16 apart.
        """
        weight = self._linear_layers()[0].weight
        rows, columns = (
            log_spaced(torch.arange(1 - n, n, device=weight.device).to(weight.dtype))
            for n in (height, width)
        )
        shape = (2 * height - 1, 2 * width - 1)
        places = torch.stack([rows[:, None].expand(shape), columns.expand(shape)], dim=-1)
        with without_autocast(weight.device.type):
            return LARGEST * self.mlp(places).sigmoid().permute(2, 0, 1)

    def forward(
        self,
        x: Tensor,
        height: int | None = None,
        width: int | None = None,
        **of_two_maps: object,
    ) -> Tensor:
        """Return the bias of each pair, (1, H, L, L), row i of query i.

        Args:
            x: (B, H, L, D), queries: only its shape is used.
            height, width: of the map, L = height * width.

        Raises:
            ValueError: the tokens are not those of one map.
        """
        if height is None or width is None or of_two_maps or x.shape[2] != height * width:
            raise ValueError(
                f"continuous position bias is of pairs of one map's tokens: {x.shape[2]} queries "
                f"are not a map of {height} x {width}, or keys are of another one"
            )
        # The columns of all pairs first: then the keys of one row lie side by side, and the large
        # tensor is written once, in the order that it has to have.
        table = self.table(height, width).index_select(2, _pairs(width, x.device).flatten())
        table = table.view(-1, (2 * height - 1) * width, width)  # row offset, query column, column
        rows = _pairs(height, x.device)[:, None] * width
        places = rows + torch.arange(width, device=x.device)[:, None]  # query row, column, key row
        bias = table.index_select(1, places.flatten())
        return bias.view(1, -1, height * width, height * width)


def _pairs(length: int, device: torch.device) -> Tensor:
    """Return where the offset of query and key is in the table, for rows or columns.

    Returns:
        (length, length) int64, [query, key].
    """
    places = torch.arange(length, device=device)
    return places[:, None] - places + length - 1
