"""Maps of encodings without tables around a query, against the logits of one pass."""

import pytest
import torch
from torch import nn

from models.rpe_attention.continuous_bias import ContinuousBias
from models.rpe_attention.rotary import AxialRotary, MixedRotary
from tools.rpe_inspection.formula_maps import formula_map, same_in_all_heads

H, D, RADIUS = 3, 8, 4
SIDE = 2 * RADIUS + 1
QUERY = SIDE * RADIUS + RADIUS  # the middle of a map of SIDE x SIDE


def bias_module():
    torch.manual_seed(0)
    module = ContinuousBias(H)
    nn.init.normal_(module.mlp[2].weight)
    return module


def test_a_bias_is_that_of_the_keys_around_the_query():
    module = bias_module()
    with torch.no_grad():
        row = module(torch.zeros(1, H, SIDE**2, D), SIDE, SIDE)[0, :, QUERY].view(H, SIDE, SIDE)
    found = formula_map(module, RADIUS, (SIDE, SIDE))
    torch.testing.assert_close(found, row - row.mean((1, 2), keepdim=True))
    assert found.std() > 0.5 and not torch.allclose(found, found.flip(1, 2), atol=0.1)
    assert not same_in_all_heads(module)


@pytest.mark.parametrize("make", [lambda: AxialRotary(D), lambda: MixedRotary(D, H)])
def test_a_rotation_is_the_logit_of_equal_features(make):
    torch.manual_seed(0)
    module = make()
    ones = torch.full((1, H, SIDE**2, D), D**-0.5)
    with torch.no_grad():
        q, k = module(ones, ones, SIDE, SIDE)
    row = (q[0, :, QUERY, None] * k[0]).sum(-1).view(H, SIDE, SIDE)
    found = formula_map(module, RADIUS, (SIDE, SIDE))
    assert len(found) == (1 if same_in_all_heads(module) else H)
    torch.testing.assert_close(found.expand_as(row), row, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [bias_module, lambda: AxialRotary(D)])
def test_what_no_map_of_the_training_had_is_blank(make):
    """Maps of 2 x 4 and 4 x 2 tokens: up to 1 row and 3 columns away, or the reverse."""
    found = formula_map(make(), RADIUS, (2, 4))[0]
    for dr in range(-RADIUS, RADIUS + 1):
        for dc in range(-RADIUS, RADIUS + 1):
            near, far = sorted((abs(dr), abs(dc)))
            value = found[RADIUS + dr, RADIUS + dc]
            assert value.isfinite() == (near <= 1 and far <= 3)
