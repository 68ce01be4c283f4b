"""Lay out encodings that have no tables around a query: rotary encoding and continuous bias."""

import torch
from torch import Tensor, nn

from models.rpe_attention.continuous_bias import ContinuousBias
from models.rpe_attention.rotary import AxialRotary, Rotary

# By the names of a layer's modules: what they are called, and which kind of strength is shown.
TITLES = {"cpb": "continuous position bias", "rope": "rotary encoding"}
KINDS = {"cpb": "centred", "rope": "cosine"}


def same_in_all_heads(module: nn.Module) -> bool:
    """Return whether all heads have the same encoding, of a module named in TITLES."""
    return isinstance(module, AxialRotary)


@torch.no_grad()
def formula_map(module: nn.Module, radius: int, largest: tuple[int, int]) -> Tensor:
    """Return what an encoding does to the logit of each key around a query.

    A continuous bias is shown less its mean over the offsets that are not NaN, as softmax does not
    see a constant. Of a rotary encoding it is the mean of the cosines of its D / 2 angles: the
    share of the logit that stays where query and key have the same length in each pair of features,
    and, before they are turned, the same direction.

    Args:
        radius: offsets go from -radius to radius tokens.
        largest: shorter and longer side in tokens of the largest map of the training: offsets that
            it does not have are NaN.

    Returns:
        (H, S, S), or (1, S, S) where all heads have the same, S = 2 * radius + 1; the key dr rows
        below and dc columns to the right of the query is at [..., radius + dr, radius + dc].
    """
    if isinstance(module, ContinuousBias):
        values = module.table(radius + 1, radius + 1).flip(1, 2)  # offsets there are query - key
    else:
        assert isinstance(module, Rotary)
        dtype = torch.promote_types(module.freqs.dtype, torch.float32)
        # An angle of keys, less that of a query at 0; the cosine does not know its sign.
        places = torch.arange(-radius, radius + 1, device=module.freqs.device).to(dtype)
        values = module.angles(places, places).cos().mean(-1)
    short, long = largest
    away = torch.arange(-radius, radius + 1, device=values.device).abs()
    near, far = away < short, away < long
    reached = (near[:, None] & far) | (far[:, None] & near)
    if isinstance(module, ContinuousBias):
        values = values - values[:, reached].mean(-1)[:, None, None]
    return values.masked_fill(~reached, torch.nan)
