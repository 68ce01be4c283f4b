"""Continuous position bias against a loop, against transformers' Swin V2, and by its properties."""

import itertools
import math

import pytest
import torch
from torch import nn

from models.rpe_attention import RPEMultiheadAttention
from models.rpe_attention.continuous_bias import ContinuousBias, ContinuousBiasConfig

H, HIDDEN = 3, 5
SIZES = [(3, 4), (4, 2), (1, 5), (1, 1)]


def randomised(hidden=HIDDEN):
    torch.manual_seed(0)
    bias = ContinuousBias(H, hidden).double()
    for parameter in bias.parameters():
        nn.init.normal_(parameter)
    return bias


def of_map(bias, height, width):
    queries = torch.zeros(2, H, height * width, 4, dtype=torch.float64)
    return bias(queries, height, width)


def spaced(offset):
    """With 8 |d| / 8 = |d|, an offset of 8 being the largest of a window of 9."""
    return math.copysign(math.log2(1 + abs(offset)) / math.log2(8), offset)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_it_is_the_loop(height, width):
    bias = randomised()
    found = of_map(bias, height, width)
    length = height * width
    assert found.shape == (1, H, length, length)
    first, _, last = bias.mlp
    for i, j in itertools.product(range(length), repeat=2):
        place = [spaced(i // width - j // width), spaced(i % width - j % width)]
        hidden = [
            max(0, sum(w * p for w, p in zip(row, place, strict=True)) + b)
            for row, b in zip(first.weight.tolist(), first.bias.tolist(), strict=True)
        ]
        for head, row in enumerate(last.weight.tolist()):
            x = sum(w * h for w, h in zip(row, hidden, strict=True))
            wanted = 16 / (1 + math.exp(-x))
            assert math.isclose(found[0, head, i, j].item(), wanted, rel_tol=1e-9)


def test_it_is_that_of_swin_v2():
    """In a window of 9 x 9, whose largest offset is the 8 tokens that all maps have here."""
    swin = pytest.importorskip("transformers.models.swinv2.modeling_swinv2")
    config = swin.Swinv2Config(attention_probs_dropout_prob=0.0)
    theirs = swin.Swinv2SelfAttention(config, H * 4, H, 9).eval()
    ours = ContinuousBias(H)
    nn.init.normal_(theirs.continuous_position_bias_mlp[2].weight)
    ours.mlp.load_state_dict(theirs.continuous_position_bias_mlp.state_dict())
    # Without queries, their logits are the bias.
    nn.init.zeros_(theirs.query.weight)
    nn.init.zeros_(theirs.query.bias)
    with torch.no_grad():
        _, weights = theirs(torch.randn(1, 81, H * 4), output_attentions=True)
        found = ours(torch.zeros(1, H, 81, 4), 9, 9)
    torch.testing.assert_close(found.softmax(-1), weights)
    assert found.std() > 0.5


def test_an_offset_has_the_same_bias_in_every_map():
    bias = randomised()
    large = bias.table(6, 8)
    for height, width in SIZES:
        middle = large[:, 6 - height : 5 + height, 8 - width : 7 + width]
        torch.testing.assert_close(bias.table(height, width), middle)


def test_it_starts_without_effect():
    torch.manual_seed(0)
    plain = RPEMultiheadAttention(H * 4, H)
    layer = RPEMultiheadAttention(H * 4, H, rpe_config=ContinuousBiasConfig())
    missing = layer.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["cpb.mlp.0.weight", "cpb.mlp.0.bias", "cpb.mlp.2.weight"]
    x = torch.randn(12, 2, H * 4)
    out = layer(x, x, x, hw=(3, 4))[0]
    torch.testing.assert_close(out, plain(x, x, x)[0])
    out.square().sum().backward()
    assert layer.cpb.mlp[2].weight.grad.abs().max() > 0  # and learns


def test_gradients():
    bias = randomised()
    names, values = zip(*bias.named_parameters(), strict=True)

    def compute(*parameters):
        given = dict(zip(names, parameters, strict=True))
        queries = torch.zeros(1, H, 6, 4, dtype=torch.float64)
        return torch.func.functional_call(bias, given, (queries, 2, 3))

    assert torch.autograd.gradcheck(compute, values)


def test_nothing_as_large_as_pairs_times_hidden_exists():
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append(out.untyped_storage().nbytes() // out.element_size())
            return out

    bias, length = ContinuousBias(H), 100
    with Watch():
        bias(torch.zeros(1, H, length, 4), 10, 10).sum().backward()
    assert 0 < max(sizes) < length**2 * 512 / 4


def test_it_keeps_its_32_bits_under_autocast():
    bias = randomised(512).float()
    queries = torch.zeros(1, H, 12, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = bias(queries.bfloat16(), 3, 4)
    assert found.dtype == torch.float32
    assert torch.equal(found, bias(queries, 3, 4))


def test_what_is_not_one_map_is_refused():
    bias = randomised()
    for size in ((2, 3), (None, None)):
        with pytest.raises(ValueError, match="of pairs of one map's tokens: 12 queries"):
            bias(torch.zeros(1, H, 12, 4), *size)
    layer = RPEMultiheadAttention(H * 4, H, rpe_config=ContinuousBiasConfig())
    x, y = torch.randn(12, 1, H * 4), torch.randn(6, 1, H * 4)
    with pytest.raises(ValueError, match="keys are of another one"):
        layer(x, y, y, hw=((3, 4), (2, 3)))
