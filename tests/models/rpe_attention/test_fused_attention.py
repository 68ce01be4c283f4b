"""Fused attention against the formulas in float64: on the GPU, or interpreted where is none."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.models.rpe_attention.fused_cases import DEVICE, Case, needs_triton, seed

pytestmark = needs_triton


# ---- the function ----


@pytest.mark.parametrize("on", ["qk", *(pytest.param(on, marks=pytest.mark.slow) for on in "kq")])
def test_it_is_the_formulas(on):
    Case(5, 7, on=on).check()


@pytest.mark.parametrize(
    ("height", "width", "method", "ratio"),
    [(1, 9, "product", 2.0), (3, 17, "product", 1.9), (3, 17, "euc", 3.0), (4, 1, "quant", 2.0)],
)
def test_maps_of_any_size(height, width, method, ratio):
    Case(height, width, heads=1, method=method, ratio=ratio).check()


def test_steps_that_share_a_row_bucket():
    """With 3 buckets an axis most steps of 6 rows are in a run with others."""
    Case(6, 2, batch=1, heads=1, ratio=0.6).check()


@pytest.mark.slow
def test_rows_that_share_buckets():
    """20 rows fall into 7 row buckets: their gradients are summed over several rows."""
    Case(20, 3, batch=1, heads=1).check()


@pytest.mark.parametrize("head_dim", [1, 32, 40, 128])
def test_head_dims(head_dim):
    Case(2, 5, head_dim=head_dim, heads=1).check(atol=1e-4, rtol=1e-4)


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["product", "euc", "quant"])
@pytest.mark.parametrize("ratio", [1.9, 2.0, 3.0, 7.5])
@pytest.mark.parametrize(("height", "width"), [(5, 7), (1, 9), (3, 17), (20, 3)])
def test_all_methods_on_all_maps(height, width, method, ratio):
    batch = 2 if height * width < 40 else 1
    Case(height, width, 8, batch, 1, method, ratio).check()


@pytest.mark.slow
def test_rows_of_several_chunks():
    Case(9, 35, 32, 1, 1).check(atol=1e-4, rtol=1e-4)


def test_without_terms_and_without_padding_it_is_attention():
    Case(3, 5, on="", padded=False).check()


def test_tables_with_any_strides():
    """Seen through views, expanded over images, heads or tokens, and wider than needed."""
    case = Case(2, 5)
    q, k, v, t_k, t_q = case.tensors
    n = t_k.shape[3]
    turned = t_k.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    spread = nn.functional.pad(t_q, (3, 2))[..., 3 : 3 + n]
    torch.testing.assert_close(case.fused(q, k, v, turned, spread)[0], case.fused(*case.tensors)[0])
    case.tensors = [q, k, v, t_k[:1, :, :1], t_q[:, :1]]
    case.check()


def test_the_same_bits_each_time():
    case = Case(3, 5)
    for first, second in zip(case.ours(), case.ours(), strict=True):
        assert torch.equal(first, second)


def test_an_image_of_padding_gives_zeros():
    case = Case(2, 3)
    case.padding[1] = True
    out, *gradients = case.ours()
    assert out[1].eq(0).all() and out[0].ne(0).any()
    for gradient in gradients:
        assert gradient[1].eq(0).all() and gradient[0].isfinite().all()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)], ids=str
)
def test_half_precision(dtype, tolerance):
    """By the norm of the error: single gradients are small differences of large numbers."""
    case = Case(3, 7, head_dim=32, dtype=dtype)
    for ours, wanted in zip(case.ours(), case.wanted(), strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - wanted).norm() < tolerance * wanted.norm()


def test_tables_of_another_dtype():
    """As under autocast, where a bias table stays float32."""
    case = Case(2, 5, dtype=torch.float16)
    case.tensors[3:] = [t.float() for t in case.tensors[3:]]
    for ours, given in zip(case.ours()[1:], case.tensors, strict=True):
        assert ours.dtype == given.dtype
    case.check(atol=2e-2, rtol=2e-2)


# ---- dropout ----


def weights_of(case, **options):
    """Return the weights after dropout, which attention to one-hot values gives."""
    q, k, _, *tables = case.tensors
    length = q.shape[2]
    one_hot = torch.eye(length, device=DEVICE).expand(*q.shape[:2], -1, -1)
    pad = [nn.functional.pad(t, (0, length - t.shape[3])) for t in (q, k)]
    return case.fused(*pad, one_hot, *tables, **options)[0]


def philox(key, counter, rounds=7):
    """Philox 4x32 (Salmon et al. 2011), of numpy arrays; key and counter: 32-bit words."""
    word = np.uint64(2**32 - 1)
    (k0, k1), (c0, c1, c2, c3) = key, (np.asarray(c, np.uint64) for c in counter)
    for _ in range(rounds):
        a, b = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1 = (b >> np.uint64(32)) ^ c1 ^ np.uint64(k0), b & word
        c2, c3 = (a >> np.uint64(32)) ^ c3 ^ np.uint64(k1), a & word
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3))


def test_which_weights_dropout_keeps_is_documented():
    """The mapping of `fused_forward.is_kept`, written down a second time."""
    height, width, number, p = 2, 19, 5 * 2**32 + 7, 0.3
    case = Case(height, width, batch=2, heads=1, padded=False)
    ours = weights_of(case, dropout_p=p, seed=seed(number)) != 0
    row, col = np.divmod(np.arange(height * width), width)
    blocks = -(-width // 16)
    of_query = row * 8 * blocks + col // 16 * 8 + col % 8
    of_key = row * 4 * blocks + col // 16 * 4 + col % 8 // 2
    pair = np.arange(2)[:, None, None]
    counter = (of_key[None, None, :], of_query[None, :, None], pair, 0)
    words = philox((number % 2**32, number >> 32), counter)
    bit = col // 8 % 2
    which = np.broadcast_to(2 * bit[:, None] + bit[None, :], words.shape[1:])
    word = np.take_along_axis(words, which[None], 0)[0]
    half = np.where(col % 2 == 1, word >> np.uint64(16), word & np.uint64(0xFFFF))
    kept = half >= round(p * 2**16)
    assert torch.equal(ours[:, 0].cpu(), torch.from_numpy(kept))


@pytest.mark.slow
def test_dropout_is_the_same_forward_and_backward():
    case = Case(5, 7, padded=False)
    options = {"dropout_p": 0.3, "seed": seed(2**40 + 1)}
    kept = weights_of(case, **options) != 0
    assert 0 < kept.float().mean() < 1
    case.check(factor=kept / 0.7, **options)


@pytest.mark.slow
def test_dropout_keeps_the_right_share_and_is_independent():
    case = Case(5, 7, padded=False)
    p = 0.25
    masks = [weights_of(case, dropout_p=p, seed=seed(s)) != 0 for s in (1, 1, 2, 1 + 2**32)]
    assert torch.equal(masks[0], masks[1])
    one, *others = masks[0].flatten(0, 1)  # of each image and head
    for other in (*others, masks[2][0, 0], masks[3][0, 0], one.T):
        # Of equal entries, independent masks have (1 - p)^2 + p^2, here 0.625 +- 0.014.
        assert abs(one.eq(other).float().mean() - 0.625) < 0.06
    count = masks[0].numel()
    deviation = (p * (1 - p) / count) ** 0.5
    assert abs(masks[0].float().mean() - (1 - p)) < 4 * deviation


def test_the_seed_comes_from_the_generator():
    case = Case(2, 3)
    outs = []
    for number in (0, 0, 1):
        torch.manual_seed(number)
        outs.append(case.fused(*case.tensors, dropout_p=0.5)[0])
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])
