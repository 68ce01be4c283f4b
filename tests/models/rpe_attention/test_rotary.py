"""Rotary encoding against complex numbers, against timm's modules, and by its properties."""

import cmath
import itertools

import pytest
import torch

from models.rpe_attention.rotary import AxialRotary, MixedRotary, RotaryConfig, build_rotary

D, H = 8, 3
SIZE = (3, 4)
KINDS = {"axial": RotaryConfig(), "axial-20": RotaryConfig(base=20), "mixed": RotaryConfig(True)}


@pytest.fixture(params=KINDS)
def rotary(request):
    torch.manual_seed(0)
    rotary = build_rotary(KINDS[request.param], D, H).double()
    rotary.wanted_base = KINDS[request.param].base
    return rotary


def tokens(height, width, dtype=torch.float64):
    return torch.randn(2, H, height * width, D, dtype=dtype)


def angle(rotary, head, pair, dy, dx):
    """From the published formulas: the angle of an offset."""
    if isinstance(rotary, MixedRotary):
        along_x, along_y = rotary.freqs[:, head, pair].tolist()
        return along_x * dx + along_y * dy
    quarter = D // 4
    return rotary.wanted_base ** (-(pair % quarter) / quarter) * (dx if pair < quarter else dy)


def test_logits_are_those_of_complex_numbers(rotary):
    """Sum over pairs of Re(q conj(k) exp(1j angle(query place - key place)))."""
    height, width = SIZE
    q, k = tokens(*SIZE), tokens(*SIZE)
    turned_q, turned_k = rotary(q, k, *SIZE)
    assert turned_q.shape == q.shape and turned_q.dtype == q.dtype
    found = turned_q @ turned_k.mT
    wanted = torch.zeros_like(found)
    for head, i, j in itertools.product(range(H), range(height * width), range(height * width)):
        dy, dx = i // width - j // width, i % width - j % width
        for pair in range(D // 2):
            turn = cmath.exp(1j * angle(rotary, head, pair, dy, dx))
            for image in range(2):
                x, y = (
                    complex(*part[image, head, token, 2 * pair : 2 * pair + 2].tolist())
                    for part, token in ((q, i), (k, j))
                )
                wanted[image, head, i, j] += (x * y.conjugate() * turn).real
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


def test_logits_depend_on_offsets_alone(rotary):
    """The same features at all tokens: a pair's logit is that of the pair shifted by (1, 2)."""
    height, width = 6, 7
    q, k = (tokens(1, 1).expand(-1, -1, height * width, -1) for _ in range(2))
    turned_q, turned_k = rotary(q, k, height, width)
    logits = (turned_q @ turned_k.mT).unflatten(2, (height, width)).unflatten(4, (height, width))
    inside = logits[:, :, :-1, :-2, :-1, :-2]
    torch.testing.assert_close(inside, logits[:, :, 1:, 2:, 1:, 2:])
    assert inside.std() > 0.1
    # A larger map has the same logits: padding at the right and at the bottom shifts nothing.
    smaller = rotary(q[:, :, :12], k[:, :, :12], 3, 4)
    within = logits[:, :, :3, :4, :3, :4].flatten(4).flatten(2, 3)
    torch.testing.assert_close(smaller[0] @ smaller[1].mT, within)


def test_turning_keeps_lengths_and_the_first_token(rotary):
    q, k = tokens(*SIZE), tokens(*SIZE)
    for before, after in zip((q, k), rotary(q, k, *SIZE), strict=True):
        torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1))
        assert torch.equal(after[:, :, 0], before[:, :, 0])
        assert not torch.allclose(after[:, :, 1:], before[:, :, 1:])


@pytest.mark.parametrize("size", [(3, 4), (5, 2), (1, 6), (1, 1)])
def test_they_are_timms(size):
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    q, k = tokens(*size, torch.float32), tokens(*size, torch.float32)
    for base in (100.0, 20.0):
        theirs = layers.RotaryEmbeddingCat(
            D, temperature=base, in_pixels=False, grid_indexing="xy"
        ).get_embed(size)
        found = AxialRotary(D, base)(q, k, *size)
        for x, turned in zip((q, k), found, strict=True):
            torch.testing.assert_close(turned, layers.apply_rot_embed_cat(x, theirs))
    mixed = layers.RotaryEmbeddingMixed(D * H, depth=1, num_heads=H, grid_indexing="xy")
    ours = MixedRotary(D, H)
    with torch.no_grad():
        ours.freqs.copy_(mixed.freqs[:, 0])
    for x, turned in zip((q, k), ours(q, k, *size), strict=True):
        torch.testing.assert_close(turned, layers.apply_rot_embed_cat(x, mixed.get_embed(size)[0]))


def test_mixed_frequencies_start_as_published():
    """Each head has a random angle; its two halves of pairs turn along orthogonal axes."""
    torch.manual_seed(0)
    freqs = MixedRotary(16, 64).freqs.detach()
    along_x, along_y = freqs
    sizes = [10 ** (-i / 4) for i in range(4)] * 2
    torch.testing.assert_close(freqs.norm(dim=0), torch.tensor(sizes).expand(64, -1))
    first, second = freqs[..., :4], freqs[..., 4:]
    assert (first * second).sum(0).abs().max() < 1e-6
    cross = first[0] * second[1] - first[1] * second[0]
    assert (cross > 0).all()
    angles = torch.atan2(along_y[:, 0], along_x[:, 0])
    torch.testing.assert_close(torch.atan2(along_y[:, 3], along_x[:, 3]), angles)
    assert angles.min() < -2 and angles.max() > 2 and len(angles.unique()) == 64


def test_gradients(rotary):
    q, k = (tokens(2, 3)[:1].requires_grad_() for _ in range(2))
    inputs = [q, k, *rotary.parameters()]
    assert len(inputs) == 2 + isinstance(rotary, MixedRotary)

    def logits(q, k, freqs=None):
        if freqs is None:
            return rotary(q, k, 2, 3)
        return torch.func.functional_call(rotary, {"freqs": freqs}, (q, k, 2, 3))

    assert torch.autograd.gradcheck(logits, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_angles_have_32_bits_where_features_have_16(dtype):
    """At column 90 an angle of 16 bits would be off by a quarter of a radian."""
    torch.manual_seed(0)
    for kind in KINDS.values():
        rotary = build_rotary(kind, D, H)
        q, k = (tokens(2, 90, dtype) for _ in range(2))
        wanted = rotary(q.float(), k.float(), 2, 90)
        with torch.autocast("cpu", dtype=dtype):
            found = rotary(q, k, 2, 90)
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == dtype
            assert torch.equal(one, other.to(dtype))


def test_what_does_not_fit_is_refused(rotary):
    with pytest.raises(ValueError, match="6 queries and 12 keys are not those of one map of 3 x 4"):
        rotary(tokens(2, 3), tokens(*SIZE), *SIZE)
    for config in KINDS.values():
        for features in (2, 6, 0):
            with pytest.raises(ValueError, match=f"multiple of 4 features, these have {features}"):
                build_rotary(config, features, H)
