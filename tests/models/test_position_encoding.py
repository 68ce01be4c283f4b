"""Absolute position encodings against their formulas."""

import math

import pytest
import torch

from models.position_encoding import PositionEmbeddingLearned, PositionEmbeddingSine
from util.errors import UserError
from util.misc import NestedTensor


def test_sine_positions_follow_the_formula():
    mask = torch.ones(1, 4, 6, dtype=torch.bool)
    mask[:, :3, :5] = False
    encoded = PositionEmbeddingSine(8)(NestedTensor(torch.zeros(1, 1, 4, 6), mask))
    assert encoded.shape == (1, 16, 4, 6)
    for row, col in ((0, 0), (2, 4), (1, 3)):
        for axis, (place, extent) in enumerate(((row + 1, 3), (col + 1, 5))):
            for i in range(8):
                angle = place / (extent + 1e-6) * 2 * math.pi / 10000 ** (2 * (i // 2) / 8)
                wanted = math.sin(angle) if i % 2 == 0 else math.cos(angle)
                assert encoded[0, 8 * axis + i, row, col] == pytest.approx(wanted, abs=1e-5)


def test_learned_positions_are_column_then_row():
    module = PositionEmbeddingLearned(4)
    mask = torch.zeros(2, 3, 5, dtype=torch.bool)
    encoded = module(NestedTensor(torch.zeros(2, 1, 3, 5), mask))
    assert torch.equal(encoded[1, :4, 2, 3], module.col_embed.weight[3])
    assert torch.equal(encoded[1, 4:, 2, 3], module.row_embed.weight[2])
    with pytest.raises(UserError, match="50 rows"):
        module(NestedTensor(torch.zeros(1, 1, 3, 51), torch.zeros(1, 3, 51, dtype=torch.bool)))
