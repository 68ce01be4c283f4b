"""Buckets and modules of the encoding against short loops written from the formulas."""

import itertools
import pickle

import pytest
import torch

from models.rpe_attention.enc_rpe2d import parse_rpe_string
from rpe_ops import irpe
from rpe_ops.irpe import METHOD, RPESettings, build_rpe, get_rpe_config
from tests.helpers.rpe_loops import METHODS, WRONG_STRINGS, loop_ids, parts, piecewise, randomised

B, H, D = 2, 3, 4


@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.5, 1.9, 2.0, 2.5, 3.0])
@pytest.mark.parametrize("method", ["euc", "quant", "rows", "cols", "product"])
def test_bucket_ids_follow_the_formulas(method, ratio):
    method_id = {
        "euc": METHOD.EUCLIDEAN, "quant": METHOD.QUANT, "product": METHOD.PRODUCT,
        "rows": METHOD.CROSS_ROWS, "cols": METHOD.CROSS_COLS,
    }[method]  # fmt: skip
    for skip, (height, width) in itertools.product((0, 1, 2), ((1, 1), (5, 5), (3, 11), (9, 2))):
        settings = RPESettings(method_id, "contextual", True, ratio, skip)
        ids = irpe.bucket_ids(settings, height, width, skip)
        assert torch.equal(ids, loop_ids(method, ratio, height, width, skip))
        assert ids.min() >= 0 and ids.max() < settings.num_buckets


def test_far_offsets_share_the_last_bucket():
    distances = torch.arange(-200, 201)
    index = irpe.piecewise_index(distances, 1.9, 3.8, 15.2)
    assert index.tolist() == [piecewise(x, 1.9, 3.8, 15.2) for x in distances.tolist()]
    assert index.max() == 3 and index.min() == -3  # beta 3.8, truncated


@pytest.mark.parametrize(("ratio", "side"), [(1.9, 7), (2.0, 9), (2.5, 11), (3.0, 13)])
def test_number_of_buckets(ratio, side):
    for skip, method in itertools.product((0, 1), METHODS):
        config = get_rpe_config(ratio, method, skip=skip)
        images = side**2 if method == "product" else side
        assert config.rpe_k.num_buckets == images + skip


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("mode", ["ctx", "bias"])
@pytest.mark.parametrize("method", METHODS)
def test_keys_and_queries(method, mode, shared):
    height, width, skip = 2, 3, 1
    length = skip + height * width
    config = get_rpe_config(2.0, method, mode, shared, skip=skip, rpe_on="qk")
    for module in build_rpe(config, D, H)[:2]:
        randomised(module)
        x = torch.randn(B, H, length, D, dtype=torch.float64)
        wanted = torch.zeros(B, H, length, length, dtype=torch.float64)
        for part, name in parts(module, method):
            ids = loop_ids(name, 2.0, height, width, skip)
            for b, h, i, j in itertools.product(range(B), range(H), range(length), range(length)):
                row, n = 0 if shared else h, ids[i, j]
                if mode == "bias":
                    wanted[b, h, i, j] += part.lookup_table_bias[row, n]
                else:
                    wanted[b, h, i, j] += x[b, h, i] @ part.lookup_table_weight[row, :, n]
        out = module(x, height, width)
        assert out.shape == (1 if mode == "bias" else B, H, length, length)
        torch.testing.assert_close(out.expand_as(wanted), wanted)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_values(method, shared):
    height, width = 3, 2
    length = height * width
    config = get_rpe_config(2.0, method, "ctx", shared, rpe_on="v")
    module = randomised(build_rpe(config, D, H)[2])
    x = torch.rand(B, H, length, length, dtype=torch.float64)
    wanted = torch.zeros(B, H, length, D, dtype=torch.float64)
    for part, name in parts(module, method):
        ids = loop_ids(name, 2.0, height, width)
        for b, h, i, j in itertools.product(range(B), range(H), range(length), range(length)):
            row = 0 if shared else h
            wanted[b, h, i] += x[b, h, i, j] * part.lookup_table_weight[row, ids[i, j]]
    torch.testing.assert_close(module(x, height, width), wanted)


def test_parameter_names_and_shapes():
    def shapes(*options, **named):
        module = next(m for m in build_rpe(get_rpe_config(*options, **named), D, H) if m)
        return {name: tuple(p.shape) for name, p in module.named_parameters()}

    assert shapes(2.0, "product", "ctx", True) == {"lookup_table_weight": (1, D, 81)}
    assert shapes(1.9, "euc", "bias", False, skip=1) == {"lookup_table_bias": (H, 8)}
    assert shapes(2.0, "quant", "ctx", False, rpe_on="v") == {"lookup_table_weight": (H, 9, D)}
    assert shapes(2.0, "cross", "ctx", skip=1) == {
        "rp_rows.lookup_table_weight": (1, D, 10),
        "rp_cols.lookup_table_weight": (1, D, 10),
    }


def test_tables_start_at_zero_and_learn():
    module = build_rpe(get_rpe_config(2.0, rpe_on="k"), D, H)[1]
    assert module.lookup_table_weight.count_nonzero() == 0
    module(torch.randn(B, H, 9, D)).sum().backward()
    assert module.lookup_table_weight.grad.count_nonzero() > 0


def test_a_map_is_square_unless_given_and_what_is_left_are_extra_tokens():
    module = randomised(build_rpe(get_rpe_config(2.0, skip=1), D, H)[1])
    x = torch.randn(B, H, 10, D, dtype=torch.float64)
    assert torch.equal(module(x), module(x, 3, 3))
    assert not torch.equal(module(x, 1, 9), module(x, 3, 3))


@pytest.mark.parametrize(
    ("skip", "tokens", "side"),
    [(0, 196, 14), (1, 197, 14), (2, 198, 14), (1, 2, 1), (3, 4, 1), (2, 11, 3), (0, 1, 1)],
)
def test_a_square_map_is_what_the_extra_tokens_leave(skip, tokens, side):
    module = randomised(build_rpe(get_rpe_config(2.0, skip=skip), D, H)[1])
    x = torch.randn(1, H, tokens, D, dtype=torch.float64)
    assert torch.equal(module(x), module(x, side, side))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("skip", "tokens"),
    [(1, 71), (1, 64), (1, 66), (2, 65), (1, 198), (0, 65), (1, 1), (3, 2)],
)  # fmt: skip
def test_other_lengths_are_no_square_map(method, skip, tokens):
    """71 are not 8 x 8 and 7 extra ones, but for example 7 x 10 and 1."""
    module = build_rpe(get_rpe_config(2.0, method, skip=skip), D, H)[1]
    extra = f" and skip={skip} extra tokens" if skip else ""
    with pytest.raises(
        ValueError, match=f"^{tokens} tokens are not a square map{extra}: give height and width$"
    ):
        module(torch.randn(1, H, tokens, D))


def test_the_size_says_how_many_tokens_are_extra():
    module = randomised(build_rpe(get_rpe_config(2.0, skip=1), D, H)[1])
    x = torch.randn(1, H, 71, D, dtype=torch.float64)
    assert module(x, 7, 10).shape == module(x, 8, 8).shape == (1, H, 71, 71)


def test_wrong_sizes_are_refused():
    module = build_rpe(get_rpe_config(2.0), D, H)[1]
    with pytest.raises(ValueError, match="3 x 4 map"):
        module(torch.randn(B, H, 11, D), 3, 4)
    with pytest.raises(ValueError, match="skip=0"):
        module(torch.randn(B, H, 13, D), 3, 4)
    with pytest.raises(ValueError, match="both height and width"):
        module(torch.randn(B, H, 12, D), height=3)


def test_layers_share_ids_and_no_orientation_is_rebuilt(monkeypatch):
    built = []
    original = irpe.bucket_ids
    monkeypatch.setattr(irpe, "bucket_ids", lambda *a: built.append(a) or original(*a))
    monkeypatch.setattr(irpe, "bucket_cache", irpe.BucketCache(2**20))
    layers = [build_rpe(get_rpe_config(2.0), D, H)[1] for _ in range(6)]
    for height, width in ((2, 5), (5, 2), (2, 5), (5, 2)):
        for layer in layers:
            layer(torch.randn(B, H, 10, D), height, width)
    assert [a[1:3] for a in built] == [(2, 5), (5, 2)]


def test_ids_of_one_map_are_kept_apart_by_ratio_method_and_extra_tokens():
    """Encodings of other kinds in one process, each asked for ids twice."""
    cases = [
        (method, ratio, skip)
        for method in ("euc", "quant", "product")
        for ratio in (0.5, 1.0, 2.0)
        for skip in (0, 1)
    ]
    for method, ratio, skip in cases * 2:
        module = randomised(build_rpe(get_rpe_config(ratio, method, skip=skip), D, H)[1])
        ids = module.ids(torch.empty(B, H, skip + 12, D), 3, 4)
        assert torch.equal(ids.long(), loop_ids(method, ratio, 3, 4, skip)), (method, ratio, skip)
        ids = module.ids(torch.empty(B, H, skip + 12, D), 2, 6)
        assert torch.equal(ids.long(), loop_ids(method, ratio, 2, 6, skip)), (method, ratio, skip)


def test_cache_is_bounded_and_forgets_the_least_recent():
    cache = irpe.BucketCache(max_bytes=100)
    for key in "abac":  # 40 bytes each: two fit, b is older than a
        cache.get(key, lambda: torch.zeros(5, dtype=torch.int64))
    assert list(cache._entries) == ["a", "c"] and cache.nbytes == 80
    cache.get("large", lambda: torch.zeros(1000))
    assert list(cache._entries) == ["large"]


def test_ids_first_built_in_inference_mode_can_be_trained_with(monkeypatch):
    monkeypatch.setattr(irpe, "bucket_cache", irpe.BucketCache(2**20))
    module = build_rpe(get_rpe_config(2.0), D, H)[1]
    with torch.inference_mode():
        module(torch.randn(B, H, 6, D), 2, 3)
    module(torch.randn(B, H, 6, D), 2, 3).sum().backward()
    assert module.lookup_table_weight.grad is not None


def test_modules_can_be_pickled_and_copied():
    module = randomised(build_rpe(get_rpe_config(2.0, "cross"), D, H)[1])
    x = torch.randn(B, H, 6, D, dtype=torch.float64)
    assert torch.equal(pickle.loads(pickle.dumps(module))(x, 2, 3), module(x, 2, 3))


def test_config_takes_names_ids_and_any_case():
    assert get_rpe_config(2.0, "PRODUCT") == get_rpe_config(2.0, METHOD.PRODUCT)
    assert get_rpe_config(2.0, 4).rpe_k.method == METHOD.CROSS
    assert get_rpe_config(2.0, mode="ctx") == get_rpe_config(2.0, mode="contextual")
    config = get_rpe_config(rpe_on="qv")
    assert config.rpe_k is None and config.rpe_q == config.rpe_v
    assert build_rpe(None, D, H) == (None, None, None)


def test_string_gives_the_config():
    assert parse_rpe_string("") is None
    assert parse_rpe_string("rpe-1.9-cross-ctx-0-qkv") == get_rpe_config(
        1.9, "cross", "ctx", False, 0, "qkv"
    )


@pytest.mark.parametrize(("text", "field"), WRONG_STRINGS.items())
def test_wrong_string_names_the_field_and_the_format(text, field):
    with pytest.raises(ValueError, match=field) as error:
        parse_rpe_string(text)
    assert "rpe-{ratio}-{method}-{mode}-{shared_head}-{rpe_on}" in str(error.value)
    assert repr(text) in str(error.value)
