"""rpe_attention by the fused kernels: extra tokens, two maps, values, any ratio, all dtypes."""

import itertools

import pytest
import torch

from rpe_ops.attention import rpe_attention
from rpe_ops.irpe import build_rpe, get_rpe_config
from tests.helpers.rpe_loops import METHODS
from tests.models.rpe_attention.fused_cases import DEVICE, Case, needs_triton, randn, seed

pytestmark = needs_triton
SQUARE, WIDE, TALLER, WIDER = (2, 2), (2, 5), ((3, 2), (2, 4)), ((1, 3), (2, 9))
TOLERANCE = {torch.float32: 5e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

FAST = [
    ("product", "ctx", True, SQUARE, 1, "k", torch.float32),
    ("cross", "ctx", False, TALLER, (2, 1), "qkv", torch.float32),
]
SLOW = [
    ("product", "ctx", True, WIDER, 0, "qkv", torch.float32),
    ("euc", "ctx", True, WIDE, 2, "kv", torch.float32),
    ("quant", "bias", False, TALLER, (0, 1), "qk", torch.float32),
    ("product", "ctx", False, WIDE, 1, "qkv", torch.bfloat16),
    ("product", "bias", True, WIDE, 2, "k", torch.float16),
]
NIGHTLY = [
    *itertools.product(
        METHODS, ("ctx", "bias"), (True, False), (WIDE, TALLER, WIDER), (0, 1, 2), ("k", "q", "qk"),
        (torch.float32,),
    ),
    *itertools.product(
        METHODS, ("ctx",), (True, False), (WIDE, TALLER, WIDER), (0, 1, 2), ("v", "qv", "qkv"),
        (torch.float32,),
    ),
    *itertools.product(
        METHODS, ("ctx",), (True,), (WIDE, WIDER), (0, 1), ("k", "qkv"),
        (torch.float16, torch.bfloat16),
    ),
]  # fmt: skip


def check(method, mode, shared, hw, skip, on, dtype, head_dim=8, heads=2):
    """Output and all gradients against the formula in float64, by the norm of the error."""
    torch.manual_seed(0)
    sizes = hw if isinstance(hw[0], tuple) else (hw, hw)
    skips = skip if isinstance(skip, tuple) else (skip, skip)
    len_q, len_k = (extra + h * w for (h, w), extra in zip(sizes, skips, strict=True))
    config = get_rpe_config(1.9, method, mode, shared, max(skips), on)
    rpe = torch.nn.ModuleList(module for module in build_rpe(config, head_dim, heads))
    for parameter in rpe.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    rpe.to(DEVICE)
    tensors = [randn(2, heads, n, head_dim, dtype=dtype) for n in (len_q, len_k, len_k)]
    direction = randn(2, heads, len_q, head_dim, dtype=dtype)
    mask = torch.zeros(2, len_k, dtype=torch.bool, device=DEVICE)
    mask[1, -2:] = True
    results = []
    for attention, to in (("fused", dtype), ("math", torch.float64)):
        leaves = [t.to(to).requires_grad_() for t in tensors]
        rpe.to(to)
        options = {"hw": hw, "skip": skip, "key_padding_mask": mask, "attention": attention}
        out = rpe_attention(*leaves, *rpe, **options)
        parameters = list(rpe.parameters())
        assert out.dtype == to
        results.append([out, *torch.autograd.grad(out, [*leaves, *parameters], direction.to(to))])
    for ours, wanted in zip(*results, strict=True):
        # Of a single key's RPE on queries, softmax takes away everything but rounding.
        scale = wanted.norm().clamp(min=1e-2)
        assert (ours.double() - wanted).norm() < TOLERANCE[dtype] * scale


@pytest.mark.parametrize(
    "case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_it_is_the_formula(case):
    check(*case)


@pytest.mark.nightly
@pytest.mark.parametrize("case", NIGHTLY, ids=str)
def test_all_of_it_is_the_formula(case):
    check(*case, heads=1 if case[2] else 2)


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", [64, 128])
def test_features_of_vision_transformers(head_dim):
    check("product", "ctx", True, (3, 3), 1, "qkv", torch.float32, head_dim)


@pytest.mark.parametrize(
    ("method", "ratio"),
    [
        ("product", 20.0),
        pytest.param("euc", 64.0, marks=pytest.mark.slow),
        pytest.param("product", 64.0, marks=pytest.mark.slow),
        pytest.param("quant", 20.0, marks=pytest.mark.slow),
    ],
)
def test_tables_of_many_buckets(method, ratio):
    """More than 32 an axis; 129 x 129 of product at a ratio of 32, 257 x 257 at 64."""
    Case(2, 5, heads=1, batch=1, on="qkv", method=method, ratio=ratio, skip=(1, 0)).check()


def test_rows_longer_than_a_tile():
    """19 columns of keys are two chunks, 17 extra tokens are two tiles."""
    Case(1, 19, batch=1, heads=1, on="kv", padded=False, queries=(1, 2), skip=(17, 1)).check()


@pytest.mark.slow
def test_dropout_with_extra_tokens_and_values():
    """Weights of one-hot values, after dropout, and sums of the same weights by bucket."""
    case = Case(3, 4, on="kv", padded=False, queries=(2, 5), skip=(2, 1), head_dim=16)
    q, k, _, t_k, _ = case.tensors
    one_hot = torch.eye(13, 16, device=DEVICE).expand(2, 2, -1, -1)
    options = {"dropout_p": 0.3, "seed": seed(7)}
    kept = case.fused(q, k, one_hot, t_k, None, **options)[0][..., :13] != 0
    assert 0.6 < kept.double().mean() < 0.8
    rows = kept.flatten(0, 1)
    assert not torch.equal(rows[0], rows[1]) and not torch.equal(kept[..., 0, :], kept[..., 1, :])
    case.check(factor=kept / (1 - round(0.3 * 2**16) / 2**16), **options)


def test_an_image_of_padding_has_no_sums():
    case = Case(2, 3, on="v", heads=1, skip=(1, 0))
    case.padding[1] = True
    out, sums, *gradients = case.ours()
    assert out[1].eq(0).all() and sums[1].eq(0).all() and sums[0].ne(0).any()
    assert all(gradient[1].eq(0).all() and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("width", [2, 19])
def test_large_logits_come_late(width):
    """Sums so far are made small, by a power of two that float32 cannot hold.

    Within a run of rows, and from one chunk of columns to the next in the same of 3 x 3 buckets.
    """
    case = Case(4, width, batch=1, heads=1, on="v", padded=False, head_dim=2, ratio=0.6)
    q, k, *_ = case.tensors
    q.fill_(10)
    k[..., :] = torch.linspace(-20, 20, width, device=DEVICE).repeat(4)[:, None]
    k += torch.arange(4, device=DEVICE).repeat_interleave(width)[:, None]
    case.check()
