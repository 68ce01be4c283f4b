"""Attention decomposed, maps of buckets around a query, and places of tokens, against loops."""

import itertools

import pytest
import torch

from models import build_model
from models.rpe_attention.enc_rpe2d import parse_encoding
from models.transformer import Transformer
from rpe_ops.irpe import METHOD, RPESettings, build_rpe, get_rpe_config
from tests.helpers.commands import RPE, TINY_RUN
from tests.helpers.rpe_loops import (
    COMBINATIONS,
    METHODS,
    bucket,
    loop_ids,
    parts,
    randomised,
    rpe_term,
)
from tools.rpe_inspection.attention_maps import (
    capture_inputs,
    decompose_attention,
    rpe_inputs,
    run_with_attention,
)
from tools.rpe_inspection.bucket_maps import (
    bucket_map,
    full_radius,
    reached_buckets,
    strength_kind,
    strength_map,
)
from tools.rpe_inspection.token_grid import TokenGrid

E, H, LAYERS = 16, 4, 2
HEIGHT, WIDTH = 3, 2


def with_weights(module):
    """Have an attention layer return its weights in every pass; they are put into the list."""
    found = []
    module.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "need_weights": True}), with_kwargs=True
    )
    module.register_forward_hook(lambda module, args, output: found.append(output[1]))
    return found


def a_pass(text, batch=2):
    """A pass through a transformer: its attention layers, their calls and the weights they gave."""
    torch.manual_seed(0)
    transformer = Transformer(E, H, LAYERS, LAYERS, 32, rpe_config=parse_encoding(text))
    randomised(transformer).eval()
    layers = [layer.self_attn for layer in transformer.encoder.layers]
    layers += [transformer.decoder.layers[-1].multihead_attn]
    weights = [with_weights(layer) for layer in layers]
    source, position = torch.randn(2, batch, E, HEIGHT, WIDTH, dtype=torch.float64)
    mask = torch.zeros(batch, HEIGHT, WIDTH, dtype=torch.bool)
    mask[-1, :, 1:] = batch > 1  # the second image is narrower
    with capture_inputs(layers) as calls, torch.no_grad():
        transformer(source, mask, torch.randn(5, E, dtype=torch.float64), position)
    return layers, calls, [given for (given,) in weights]


STRINGS = [
    f"rpe-2.0-{method}-{mode}-{shared}-{rpe_on}"
    for method in METHODS for mode, rpe_on in COMBINATIONS for shared in (1, 0)
]  # fmt: skip


@pytest.mark.parametrize("text", [*STRINGS, "rope-axial", "rope-mixed", "cpb-log"])
def test_the_parts_give_the_weights_of_the_pass(text):
    layers, calls, weights = a_pass(text)
    for layer, call, given in zip(layers, calls, weights, strict=True):
        found = decompose_attention(layer, call)
        term = 0 if found.term is None else found.term
        assert (found.term is not None) == (layer is not layers[-1] and not text.endswith("-v"))
        torch.testing.assert_close((found.logits + term).softmax(-1).mean(1), given)
        torch.testing.assert_close(found.weights.mean(1), given)
        torch.testing.assert_close(found.weights_without, found.logits.softmax(-1))
        assert (given[1].view(len(given[1]), HEIGHT, WIDTH)[..., 1:] == 0).all()  # padding
        some = found.select_queries([4, 0])
        torch.testing.assert_close(some.weights, found.weights[:, :, [4, 0]])


@pytest.mark.parametrize(("mode", "rpe_on"), [("ctx", "qkv"), ("bias", "qk"), ("ctx", "q")])
@pytest.mark.parametrize("method", METHODS)
def test_the_term_is_the_loop(method, mode, rpe_on):
    (layer, *_), (call, *_), _ = a_pass(f"rpe-2.0-{method}-{mode}-0-{rpe_on}", batch=1)
    found, size = decompose_attention(layer, call), (HEIGHT, WIDTH)
    q, k, _ = (
        (call[name][:, 0] @ w.T + b).view(-1, H, E // H).transpose(0, 1)[None] / (E // H) ** 0.5
        for name, w, b in zip(
            ("query", "key", "value"), layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
        )
    )
    inputs = rpe_inputs(layer, call)
    assert set(inputs) == set(rpe_on) - {"v"}
    for letter, x in inputs.items():
        torch.testing.assert_close(x, {"q": k, "k": q}[letter])
    for h, i, j in itertools.product(range(H), *[range(HEIGHT * WIDTH)] * 2):
        wanted = rpe_term(layer.rpe_k, method, False, q, i, j, 0, h, *size)
        wanted = wanted + rpe_term(layer.rpe_q, method, False, k, j, i, 0, h, *size)
        torch.testing.assert_close(found.term[0, h, i, j], wanted)


def test_hooks_go():
    layers, calls, _ = a_pass("")
    before = calls[0]["query"]
    x = torch.randn(4, 1, E, dtype=torch.float64)
    layers[0](x, x, x)
    assert calls[0]["query"] is before
    with capture_inputs(layers) as calls:
        assert calls == [{}, {}, {}]


@pytest.mark.parametrize("masks", [[], ["--masks"]])
def test_a_detector_is_looked_at(args, masks):
    torch.manual_seed(0)
    model = build_model(args(*TINY_RUN, *masks))[0].eval()
    image = torch.randn(1, 3, 65, 100)
    seen = run_with_attention(model, image)
    with torch.no_grad():
        torch.testing.assert_close(seen.outputs["pred_boxes"], model(image)["pred_boxes"])
    assert seen.hw == (3, 4) and len(seen.encoder) == 2
    assert decompose_attention(*seen.encoder[1]).term.shape == (1, 4, 12, 12)
    found = decompose_attention(*seen.decoder)
    assert found.term is None and found.weights.shape == (1, 4, 8, 12)


# ---- tables ----

METHOD_IDS = {
    "euc": METHOD.EUCLIDEAN, "quant": METHOD.QUANT, "product": METHOD.PRODUCT,
    "rows": METHOD.CROSS_ROWS, "cols": METHOD.CROSS_COLS,
}  # fmt: skip


@pytest.mark.parametrize("ratio", [1.0, 1.9, 2.0])
@pytest.mark.parametrize("method", METHOD_IDS)
def test_places_of_buckets(method, ratio):
    """On keys and values offsets are query - key; on queries the key looks the query up."""
    settings = RPESettings(METHOD_IDS[method], "contextual", True, ratio, 0)
    radius = full_radius(settings)
    assert radius == int(8 * ratio) + 2
    for on_queries, sign in ((False, -1), (True, 1)):
        found = bucket_map(settings, radius, on_queries)
        assert found.shape == (2 * radius + 1,) * 2
        for dr, dc in itertools.product(range(-radius, radius + 1), repeat=2):
            wanted = bucket(method, ratio, sign * dr, sign * dc)
            assert found[radius + dr, radius + dc] == wanted
    # No more show farther out.
    farther = bucket_map(settings, 2 * radius, on_queries=False)
    assert set(farther.unique().tolist()) == set(found.unique().tolist())


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("mode", ["bias", "ctx"])
@pytest.mark.parametrize("method", METHODS)
def test_strength_is_what_the_module_adds_around_the_middle(method, mode, shared):
    """For tokens that are all alike, the mean over tokens is what each one has."""
    torch.manual_seed(0)
    radius, side = 3, 7
    middle = side * radius + radius
    config = get_rpe_config(1.0, method, mode, shared, rpe_on="qk")
    rpe_q, rpe_k, _ = build_rpe(config, 5, H)
    x = torch.randn(1, H, 1, 5, dtype=torch.float64).expand(-1, -1, side * side, -1)
    for letter, rpe in (("q", rpe_q), ("k", rpe_k)):
        term = randomised(rpe)(x)[0]
        wanted = (term[:, middle] if letter == "k" else term[:, :, middle]).view(H, side, side)
        found = strength_map(letter, rpe, radius, x)
        assert found.shape[0] == (1 if mode == "bias" and shared else H)
        torch.testing.assert_close(found.expand_as(wanted), wanted)
        assert strength_kind(letter, rpe, x) == ("bias" if mode == "bias" else "mean")
    different = torch.randn(1, H, 9, 5, dtype=torch.float64)
    mean = strength_map("k", rpe_k, radius, different.mean(2, keepdim=True))
    torch.testing.assert_close(strength_map("k", rpe_k, radius, different), mean)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_strength_without_an_image_is_a_norm(method, shared):
    torch.manual_seed(0)
    radius = 2
    modules = build_rpe(get_rpe_config(1.0, method, "ctx", shared, rpe_on="qkv"), 5, H)
    heads = 1 if shared else H
    for letter, rpe in zip("qkv", modules, strict=True):
        randomised(rpe)
        found = strength_map(letter, rpe, radius)
        assert found.shape == (heads, 5, 5) and strength_kind(letter, rpe, None) == "norm"
        for h, dr, dc in itertools.product(range(heads), *[range(-radius, radius + 1)] * 2):
            sign = 1 if letter == "q" else -1
            vector = 0
            for part, name in parts(rpe, method):
                n = bucket(name, 1.0, sign * dr, sign * dc)
                table = part.lookup_table_weight[h]
                vector = vector + (table[n] if letter == "v" else table[:, n])
            torch.testing.assert_close(found[h, radius + dr, radius + dc], vector.norm())
    x = torch.randn(1, H, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(strength_map("v", modules[2], radius, x), found)


@pytest.mark.parametrize("method", METHOD_IDS)
@pytest.mark.parametrize(("short", "long"), [(1, 1), (1, 4), (3, 3), (2, 5)])
def test_buckets_that_maps_reach(method, short, long):
    """Of every map, upright or not, that has no longer sides; loops over its tokens."""
    settings = RPESettings(METHOD_IDS[method], "contextual", True, 2.0, 1)
    wanted = set()
    for h, w in ((short, long), (long, short)):
        for r, c, i, j in itertools.product(range(h), range(w), range(h), range(w)):
            wanted.add(bucket(method, 2.0, r - i, c - j))
    found = reached_buckets(settings, short, long)
    assert set(found.nonzero().flatten().tolist()) == wanted
    assert len(found) == settings.num_image_buckets


@pytest.mark.parametrize("mode", ["bias", "ctx"])
@pytest.mark.parametrize("method", METHODS)
def test_what_was_never_reached_is_not_shown(method, mode):
    torch.manual_seed(0)
    rpe = randomised(build_rpe(get_rpe_config(1.9, method, mode, rpe_on="k"), 5, H)[1])
    whole, shown = (strength_map("k", rpe, 8, None, largest) for largest in (None, (2, 4)))
    blank = shown.isnan()
    assert torch.equal(shown[~blank], whole[~blank]) and not whole.isnan().any()
    for dr, dc in itertools.product(range(-8, 9), repeat=2):
        for _, name in parts(rpe, method):
            known = {bucket(name, 1.9, *offset) for a in (0, 1) for offset in itertools.product(
                *(range(-3, 4) if axis == a else range(-1, 2) for axis in (0, 1)))}  # fmt: skip
            if bucket(name, 1.9, -dr, -dc) not in known:
                assert blank[0, 8 + dr, 8 + dc]
                break
        else:
            assert not blank[0, 8 + dr, 8 + dc]


def test_loop_ids_and_maps_are_of_one_kind():
    """A row of the pairs' ids is the part of the map that the query sees."""
    settings = get_rpe_config(2.0, "product").rpe_k
    ids = loop_ids("product", 2.0, 3, 5).view(3, 5, 3, 5)
    around = bucket_map(settings, 4, on_queries=False)
    for row, col in itertools.product(range(3), range(5)):
        assert torch.equal(around[4 - row : 7 - row, 4 - col : 9 - col], ids[row, col])


# ---- places on the image ----


def test_tokens_of_points(args):
    """The last column of tokens may reach beyond the image."""
    torch.manual_seed(0)
    model = build_model(args(*TINY_RUN, "--enc_rpe2d", RPE))[0].eval()
    for height, width in ((64, 64), (65, 100), (32, 53), (96, 33)):
        seen = run_with_attention(model, torch.randn(1, 3, height, width))
        grid = TokenGrid(seen.hw, 32, (height, width), (2 * height, 3 * width))
        assert grid.cell == (64, 96)
        assert grid.hw == (-(-height // 32), -(-width // 32))
        last = (grid.hw[0] - 1, grid.hw[1] - 1)
        assert grid.token_at(0, 0) == (0, 0)
        assert grid.token_at(3 * width - 0.01, 0) == (0, last[1])
        assert grid.token_at(0, 2 * height - 0.01) == (last[0], 0)
        assert grid.token_at(3 * width - 0.01, 2 * height - 0.01) == last
        assert grid.extent == (0, 96 * grid.hw[1], 64 * grid.hw[0], 0)
        assert 0 <= grid.extent[1] - 3 * width < 96 and 0 <= grid.extent[2] - 2 * height < 64
        assert grid.contains(0, 0) and not grid.contains(3 * width, 0)
        assert not grid.contains(-1, 0) and not grid.contains(0, 2 * height)
