"""rpe_attention against loops written from the formulas."""

import itertools

import pytest
import torch

import rpe_ops
from rpe_ops.attention import rpe_attention
from rpe_ops.irpe import MapPair, TokenMap, build_rpe, get_rpe_config, pair_bucket_ids
from tests.helpers.rpe_loops import METHODS, loop_attention, loop_pair_ids, negated, randomised

B, H, D = 2, 2, 3
SQUARE, WIDE, OTHER = (2, 2), (2, 3), ((3, 2), (2, 4))  # of queries and keys where there are two


def maps_of(hw, skip):
    sizes = hw if isinstance(hw[0], tuple) else (hw, hw)
    skips = skip if isinstance(skip, tuple) else (skip, skip)
    return [(*size, extra) for size, extra in zip(sizes, skips, strict=True)]


def inputs(maps):
    torch.manual_seed(0)
    len_q, len_k = (skip + height * width for height, width, skip in maps)
    shapes = ((B, H, len_q, D), (B, H, len_k, D), (B, H, len_k, D))
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def modules_of(method, mode="ctx", shared=True, skip=0, on="qk", ratio=1.9):
    extra = max(skip) if isinstance(skip, tuple) else skip
    config = get_rpe_config(ratio, method, mode, shared, extra, on)
    return [rpe if rpe is None else randomised(rpe) for rpe in build_rpe(config, D, H)]


CASES = [
    ("product", "ctx", True, WIDE, 0, "k"),
    ("product", "ctx", False, WIDE, 1, "qkv"),
    ("product", "ctx", True, OTHER, (1, 0), "qkv"),
    ("cross", "ctx", True, OTHER, 2, "qkv"),
    ("euc", "bias", False, OTHER, (0, 1), "qk"),
    ("quant", "ctx", True, SQUARE, 2, "qv"),
]
ALL = list(
    itertools.product(
        METHODS, ("ctx", "bias"), (True, False), (WIDE, OTHER), (0, 1, (2, 1)), ("q", "k", "qk")
    )
) + list(itertools.product(METHODS, ("ctx",), (True, False), (WIDE, OTHER), (0, 2), ("v", "qkv")))


def check(method, mode, shared, hw, skip, on):
    maps = maps_of(hw, skip)
    tensors = [t.requires_grad_() for t in inputs(maps)]
    modules = modules_of(method, mode, shared, skip, on)
    mask = torch.zeros(B, tensors[1].shape[2], dtype=torch.bool)
    mask[1, -2:] = True
    parameters = [p for rpe in modules if rpe is not None for p in rpe.parameters()]
    wanted = loop_attention(*tensors, modules, method, 1.9, maps, D**-0.5, mask)
    ours = rpe_attention(
        *tensors, *modules, hw=hw, skip=skip, key_padding_mask=mask, need_weights=True
    )
    torch.testing.assert_close(ours, wanted)
    direction = torch.randn_like(ours[0])
    gradients = [torch.autograd.grad(out, [*tensors, *parameters], direction, retain_graph=True)
                 for out in (ours[0], wanted[0])]  # fmt: skip
    torch.testing.assert_close(*gradients)
    alone = rpe_attention(*tensors, *modules, hw=hw, skip=skip, key_padding_mask=mask)
    torch.testing.assert_close(alone, wanted[0])
    torch.testing.assert_close(
        torch.autograd.grad(alone, [*tensors, *parameters], direction), gradients[1]
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_loop(case):
    check(*case)


@pytest.mark.nightly
@pytest.mark.parametrize("case", ALL, ids=str)
def test_all_of_it_is_the_loop(case):
    check(*case)


@pytest.mark.parametrize("method", ["euc", "quant", "rows", "cols", "product"])
def test_buckets_between_two_maps(method):
    config = get_rpe_config(1.5, "cross" if method in ("rows", "cols") else method, skip=1)
    rpe = build_rpe(config, D, H)[1]
    settings = {"rows": lambda: rpe.rp_rows, "cols": lambda: rpe.rp_cols}.get(method, lambda: rpe)()
    for queries, keys in (((3, 5, 0), (6, 4, 0)), ((1, 9, 1), (2, 3, 0)), ((7, 2, 0), (3, 3, 2))):
        maps = MapPair(TokenMap(*queries), TokenMap(*keys))
        wanted = loop_pair_ids(method, 1.5, queries, keys)
        assert torch.equal(pair_bucket_ids(settings.settings, maps), wanted)
        by_keys = pair_bucket_ids(settings.settings, maps, by_keys=True)
        assert torch.equal(by_keys, negated(method, 1.5, wanted).T)


def test_a_query_is_where_its_centre_is():
    """By hand: 2 queries above 4 keys lie in keys 1 and 3, 4 above 2 in 0, 0, 1, 1."""
    settings = get_rpe_config(3.0, "product").rpe_k  # 13 buckets an axis, near ones apart
    for queries, keys, positions in ((2, 4, [1, 3]), (4, 2, [0, 0, 1, 1]), (3, 2, [0, 1, 1])):
        maps = MapPair(TokenMap(1, queries), TokenMap(1, keys))
        wanted = [[6 * 13 + 6 + p - key for key in range(keys)] for p in positions]
        assert pair_bucket_ids(settings, maps).tolist() == wanted


def test_square_maps_need_no_size_and_scale_is_free():
    tensors = inputs([(2, 2, 1)] * 2)
    modules = modules_of("product", skip=1)
    wanted = loop_attention(*tensors, modules, "product", 1.9, [(2, 2, 1)] * 2, 0.7)[0]
    torch.testing.assert_close(rpe_attention(*tensors, *modules, skip=1, scale=0.7), wanted)


def test_dropout_drops_weights_and_scales_the_rest():
    tensors = inputs([(5, 6, 0)] * 2)
    modules = modules_of("product", on="kv")
    _, weights = rpe_attention(*tensors, *modules, hw=(5, 6), need_weights=True)
    torch.manual_seed(1)
    options = {"hw": (5, 6), "dropout_p": 0.25, "need_weights": True}
    out, dropped = rpe_attention(*tensors, *modules, **options)
    kept = dropped != 0
    torch.testing.assert_close(dropped, weights * kept / 0.75)
    assert abs(kept.double().mean() - 0.75) < 0.03
    torch.testing.assert_close(out, dropped @ tensors[2] + modules[2](dropped, 5, 6))


def test_modules_of_other_projects_serve_in_self_attention():
    class Theirs(torch.nn.Module):
        def forward(self, x, height, width):
            return torch.full((1, 1, x.shape[2], x.shape[2]), float(height - width)).tril()

    q, k, v = inputs([(1, 3, 0)] * 2)
    out = rpe_attention(q, k, v, rpe_k=Theirs(), hw=(1, 3))
    logits = q @ k.mT * D**-0.5 + torch.full((3, 3), -2.0).tril()
    torch.testing.assert_close(out, logits.softmax(-1) @ v)


def test_without_encoding_it_is_attention():
    q, k, v = inputs([(1, 4, 0), (1, 7, 0)])
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(rpe_attention(q, k, v), wanted)
    assert rpe_ops.rpe_attention is rpe_attention


WRONG = {
    "6 queries are not a map of 2 x 2: give hw": {},
    "6 queries are not a map of 2 x 3 after 1 extra tokens": {"hw": (2, 3), "skip": 1},
    "6 keys are not a map of 3 x 3": {"hw": ((2, 3), (3, 3))},
    "configured with skip=0": {"hw": ((2, 3), (1, 5)), "skip": (0, 1)},
    "attention must be one of auto": {"hw": (2, 3), "attention": "flash"},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_refused(message):
    tensors = inputs([(2, 3, 0)] * 2)
    with pytest.raises(ValueError, match=message):
        rpe_attention(*tensors, *modules_of("product", on="k"), **WRONG[message])
    with pytest.raises(ValueError, match=r"\(2, 2, 6, 3\), \(2, 2, 6, 3\) and \(2, 2, 5, 3\)"):
        rpe_attention(*tensors[:2], tensors[2][:, :, 1:])
