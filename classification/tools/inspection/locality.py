"""How far away the patches are that patches attend to."""

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from tools.rpe_inspection.decomposition import Attention

from .attention import Record, block_attention


class Locality(NamedTuple):
    """Mean distance, in patches, of attention; 0 if each patch attends to itself alone.

    In the last block patches' queries reach no logit and were never trained: NaN.

    Attributes:
        layers: numbers of n layers.
        model: (n, H), of attention as the model computes it, by heads.
        without: (n, H), of attention without RPE; NaN where it has no term.
        term: (n, H), of attention that is the softmax of RPE's term alone; NaN where it has none.
        even: of attention that is spread evenly over the image.
    """

    layers: list[int]
    model: np.ndarray
    without: np.ndarray
    term: np.ndarray
    even: float

    def lines(self) -> list[str]:
        """Return a table, the means of the heads."""
        lines = [
            f"mean distance of attention in patches; spread evenly it is {self.even:.2f}",
            "layer  of the model  without RPE  RPE alone",
        ]
        for layer, *values in zip(self.layers, self.model, self.without, self.term):
            shown = ["-" if np.isnan(row).any() else f"{row.mean():.2f}" for row in values]
            lines.append(f"{layer:5}  {shown[0]:>12}  {shown[1]:>11}  {shown[2]:>9}")
        return lines


def distances(height: int, width: int) -> Tensor:
    """Return distances between the patches of a map, in patches: (N, N), N = height * width."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows, columns], -1).reshape(-1, 2).float()
    return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")


def mean_distance(weights: Tensor, height: int, width: int, skip: int) -> Tensor:
    """Return the mean distance of attention between patches, by heads.

    Args:
        weights: (1, H, L, L), L = skip + height * width; the share on extra tokens is left out.

    Returns:
        (H,), the mean over all patches.
    """
    shares = weights[0, :, skip:, skip:].double()
    far = distances(height, width).to(shares)
    return ((shares * far).sum(-1) / shares.sum(-1)).mean(-1)


def locality(record: Record, layers: list[int]) -> Locality:
    """Measure the attention of one image's patches in some layers."""
    height, width, skip = record.tokens
    found: list[list[np.ndarray]] = [[], [], []]
    for layer in layers:
        attention, heads = block_attention(record, layer), record.blocks[layer][0].num_heads
        nothing = np.full(heads, np.nan)
        for values, weights in zip(found, _kinds(attention)):
            if weights is None or record.is_last(layer):
                values.append(nothing)
            else:
                values.append(mean_distance(weights, height, width, skip).cpu().numpy())
    even = distances(height, width).mean().item()
    shape = (len(layers), -1)
    model, without, term = (np.array(values).reshape(shape) for values in found)
    return Locality(layers, model, without, term, even)


def _kinds(attention: Attention) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if attention.term is None:
        return attention.weights, None, None
    return attention.weights, attention.weights_without, attention.term.softmax(-1)


def draw_locality(found: Locality, title: str) -> plt.Figure:
    """Draw the mean distance by layers: lines for means of the heads, dots for heads."""
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    for values, name, colour in (
        (found.model, "attention of the model", "#1f5fa8"),
        (found.without, "without relative positions", "#e8590c"),
        (found.term, "relative positions alone", "#1b9e4b"),
    ):
        if np.isnan(values).all():
            continue
        axis.plot(found.layers, values.mean(1), "-o", color=colour, label=name, markersize=4)
        for head in values.T:
            axis.plot(found.layers, head, ".", color=colour, alpha=0.35, markersize=4)
    axis.axhline(found.even, color="grey", linestyle="--", linewidth=1, label="spread evenly")
    axis.set(xlabel="layer", ylabel="mean distance in patches", ylim=(0, None))
    axis.set_xticks(found.layers)
    axis.legend(fontsize=8)
    return figure
