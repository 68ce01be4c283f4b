"""tools/cost.py: parameters and products by part, against numbers worked out by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from arguments import get_args_parser
from models import build_model
from models.rpe_attention.enc_rpe2d import parse_encoding
from models.transformer import TransformerEncoderLayer
from rpe_ops import functions
from tools.model_cost.counts import count_parameters, count_products
from tools.model_cost.parts import DETECTOR, REST, Part, rows_of
from tools.model_cost.subjects import DetectorSubject, build_without_memory
from util.cli import with_options

RPE = "rpe-2.0-product-ctx-1-k"  # 9 x 9 = 81 buckets
TINY = {
    "backbone": "resnet10_tiny", "hidden_dim": 32, "nheads": 4, "enc_layers": 2, "dec_layers": 2,
    "dim_feedforward": 64, "num_queries": 8, "num_classes": 5, "enc_rpe2d": RPE,
}  # fmt: skip
# The convolutions of each stage, the stem first; their maps of an image of 64 x 96 pixels have
# 32 x 48, 16 x 24, 8 x 12 and twice 4 x 6 pixels.
STEM = 3 * 16 * 49
STAGES = [2 * 16 * 16 * 9, (16 + 32) * 32 * 9 + 16 * 32, (32 + 64) * 64 * 9 + 32 * 64,
          (64 + 128) * 128 * 9 + 64 * 128]  # fmt: skip
PARAMETERS = {
    "backbone": 308_016,  # STEM + sum(STAGES): frozen batch norm has none
    "input projection": 4_128,  # 128 * 32 + 32
    # Twice 4 (32 * 32 + 32) in attention, 64 + 64 in norms, (32 + 1) 64 + (64 + 1) 32.
    "encoder": 17_088,
    "encoding": 1_296,  # twice 8 * 81
    "object queries": 256,
    # Twice 8 (32 * 32 + 32), 3 * 64, (32 + 1) 64 + (64 + 1) 32; and the last norm's 64.
    "decoder": 25_728,
    "heads": 2_442,  # (32 + 1) 6 of classes; 2 (32 + 1) 32 + (32 + 1) 4 of boxes
}
PRODUCTS = {  # of an image of 64 x 96
    "backbone": 13_639_680,
    "input projection": 98_304,  # 24 * 128 * 32
    # Twice 4 * 24 * 32 * 32 of projections, 2 * 24 * 24 * 32 of attention, 2 * 24 * 32 * 64.
    "encoder": 466_944,
    "encoding": 124_416,  # twice 24 * 32 * 81
    # Twice (4 * 8 + 8 + 2 * 24 + 8) 32 * 32, 2 * 8 * 8 * 32, 2 * 8 * 24 * 32, 2 * 8 * 32 * 64.
    "decoder": 294_912,
    "heads": 37_888,  # 2 layers * 8 * (32 * 6 + 2 * 32 * 32 + 32 * 4)
}


def detector(**options) -> DetectorSubject:
    defaults = get_args_parser().parse_args([])
    return DetectorSubject(with_options(defaults, **{**TINY, **options}))


def products_of(subject: DetectorSubject, batch: int = 1) -> dict[str, int]:
    images = torch.zeros(batch, 3, 64, 96, device="meta")
    return count_products(build_without_memory(subject), subject.parts, images)


# ---- parameters ----


def test_parameters_by_part():
    model = build_without_memory(detector())
    assert count_parameters(model, DETECTOR) == PARAMETERS
    assert sum(PARAMETERS.values()) == sum(p.numel() for p in model.parameters()) == 358_954
    trained = count_parameters(model, DETECTOR, trained=True)
    assert trained == {**PARAMETERS, "backbone": sum(STAGES[1:])}  # stem and first stage are not
    assert sum(STAGES[1:]) == 301_056


@pytest.mark.parametrize(
    "options, changed",
    [
        ({"backbone_weights": "none"}, {"backbone": 308_016 + 2 * 720}),  # batch norm is trained
        ({"position_embedding": "learned"}, {"absolute positions": 2 * 50 * 16}),
        ({"enc_rpe2d": ""}, {"encoding": 0}),
        ({"enc_rpe2d": "rpe-2.0-cross-ctx-0-qkv"}, {"encoding": 2 * 3 * 2 * 4 * 8 * 9}),
        ({"enc_rpe2d": "rope-mixed"}, {"encoding": 2 * 2 * 4 * 4}),
        ({"enc_rpe2d": "cpb-log"}, {"encoding": 2 * (2 * 512 + 512 + 512 * 4)}),
        # A box of each query; two networks of 64 from 2 offsets to 4 heads, one from 4.
        ({"dec_rpe": "box-log"}, {"reference boxes": 33 * 4 + 2 * (3 * 64 + 65 * 4)}),
        ({"dec_rpe": "box-log-relation"},
         {"reference boxes": 33 * 4 + 2 * (3 * 64 + 65 * 4) + 5 * 64 + 65 * 4}),
        ({"masks": True}, {"mask head": 22_061}),
    ],
)  # fmt: skip
def test_parameters_of_other_detectors(options, changed):
    model = build_without_memory(detector(**options))
    found = count_parameters(model, DETECTOR)
    assert found == {name: n for name, n in {**PARAMETERS, **changed}.items() if n}


def test_rows_of_a_table():
    parts = (Part("a", "a"), Part("inner", "a.b", "a"), Part("c", "c"))
    rows = rows_of({"a": 1, "inner": 2, "c": 4, REST: 8}, parts)
    assert rows == [
        ("a", None, 3), ("inner", "a", 2), ("c", None, 4), (REST, None, 8), ("total", None, 15)
    ]  # fmt: skip
    assert [row.name for row in rows_of({"a": 1}, parts)] == ["a", "inner", "c", "total"]


# ---- products ----

LAYER = (Part("layer", ""), Part("encoding", r"self_attn\.(rpe_[qkv]|cpb|rope)\b", "layer"))


def products_of_a_layer(enc_rpe2d: str, attention: str, batch: int = 1) -> dict[str, int]:
    """Count those of an encoder layer of 8 features, 2 heads and a width of 16 on 2 x 3 tokens."""
    layer = TransformerEncoderLayer(8, 2, 16, 0.0, False, parse_encoding(enc_rpe2d), attention)
    tokens = torch.zeros(6, batch, 8)
    padding = torch.zeros(batch, 6, dtype=torch.bool)
    return count_products(layer, LAYER, tokens, padding, tokens, (2, 3))


@pytest.mark.parametrize("attention", ["math", "sdpa", "fused", "auto"])
@pytest.mark.parametrize(
    "letters, encoding",
    # 6 tokens times 8 features of all heads times 81 buckets, for each letter.
    [("", 0), ("k", 3_888), ("q", 3_888), ("v", 3_888), ("qkv", 11_664)],
)
def test_products_of_an_encoder_layer(letters, encoding, attention):
    text = letters and f"rpe-2.0-product-ctx-1-{letters}"
    found = products_of_a_layer(text, attention)
    # Projections 4 * 6 * 8 * 8; queries with keys and weights with values, 6 * 6 * 8 each; two
    # layers of 6 * 8 * 16.
    assert found.pop("encoding", 0) == encoding
    assert found == {"layer": 1_536 + 576 + 1_536}


@pytest.mark.parametrize(
    "enc_rpe2d, encoding",
    [
        ("rpe-2.0-product-bias-1-k", 0),  # a number of each bucket is looked up, and added
        ("rpe-2.0-product-ctx-0-k", 3_888),
        ("rpe-2.0-euc-ctx-1-k", 6 * 8 * 9),
        ("rpe-2.0-cross-ctx-1-kv", 2 * 2 * 6 * 8 * 9),
        ("rope-axial", 0),  # turns, which are no products of matrices
        ("cpb-log", 3 * 5 * (2 * 512 + 512 * 2)),  # a network for each of 3 x 5 offsets
    ],
)
def test_products_of_other_encodings(enc_rpe2d, encoding):
    found = products_of_a_layer(enc_rpe2d, "auto")
    assert found["encoding"] == encoding and found["layer"] == 3_648
    twice = products_of_a_layer(enc_rpe2d, "auto", batch=2)
    # The network of cpb-log does not depend on images.
    assert twice["encoding"] == encoding * (1 if enc_rpe2d == "cpb-log" else 2)
    assert twice["layer"] == 7_296


def test_products_of_a_detector():
    maps = [16 * 24, 8 * 12, 4 * 6, 4 * 6]
    convolutions = sum(n * pixels for n, pixels in zip(STAGES, maps, strict=True))
    assert STEM * 32 * 48 + convolutions == PRODUCTS["backbone"]
    assert products_of(detector()) == PRODUCTS and sum(PRODUCTS.values()) == 14_662_144
    twice = {name: 2 * count for name, count in PRODUCTS.items()}
    assert products_of(detector(), batch=2) == twice


def test_products_of_reference_boxes():
    """The box head is called by the decoder, too, and is of the heads nevertheless."""
    found = products_of(detector(dec_rpe="box-log"))
    # In each layer 8 queries by 6 columns and 4 rows; boxes of the queries, made twice.
    boxes = 2 * 8 * (6 + 4) * (2 * 64 + 64 * 4) + 2 * 8 * 32 * 4
    heads = PRODUCTS["heads"] + 8 * (2 * 32 * 32 + 32 * 4)
    assert found == {**PRODUCTS, "reference boxes": boxes, "heads": heads}


def test_products_of_masks():
    found = products_of(detector(masks=True))
    attention = (8 + 24) * 32 * 32 + 8 * 24 * 32
    # Of the image once: the first layer's part, and finer maps made fit.
    image = 24 * 32 * 36 * 9 + 24 * 64 * 16 + 96 * 32 * 8 + 384 * 16 * 4
    layers = 24 * (4 * 36 + 36 * 16 + 16 * 8) + 96 * 8 * 4 + 384 * (4 * 2 + 2)
    assert found == {**PRODUCTS, "mask head": attention + image + 8 * 9 * layers}


@pytest.mark.parametrize("compiled", [True, False])
def test_they_are_what_torch_counts_of_a_real_pass(compiled, monkeypatch):
    """With and without the compiled operators, and tensors that have values."""
    if not compiled:
        monkeypatch.setattr(functions, "_kernels_for", lambda tensor: "pytorch")
    subject = detector(attention="math", enc_rpe2d="rpe-2.0-product-ctx-1-qkv")
    model = subject.build().eval().requires_grad_(False)
    for layer in model.transformer.decoder.layers:
        layer.self_attn.attention = layer.multihead_attn.attention = "math"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(2, 3, 64, 96))
    assert counter.get_total_flops() == 2 * sum(products_of(subject, batch=2).values())


@pytest.mark.slow
def test_a_resnet_50_at_the_size_of_coco():
    args = get_args_parser().parse_args(["--enc_rpe2d", RPE])
    subject = DetectorSubject(args)
    model = build_without_memory(subject)
    parameters = count_parameters(model, DETECTOR)
    # 41,302,368 are what DETR's logs say that are trained; 222,400 are of the stem and first stage.
    trained = count_parameters(model, DETECTOR, trained=True)
    assert sum(trained.values()) - trained["encoding"] == 41_302_368
    assert sum((parameters - trained).values()) == 222_400
    assert parameters["encoding"] == 6 * 32 * 81
    found = count_products(model, DETECTOR, torch.zeros(1, 3, 800, 1066, device="meta"))
    tokens, queries = 25 * 34, 100
    square, wide = 256 * 256, 2 * 256 * 2048
    assert found["encoding"] == 6 * tokens * 256 * 81
    assert found["encoder"] == 6 * tokens * (4 * square + 2 * tokens * 256 + wide)
    assert found["decoder"] == 6 * (
        (6 * queries + 2 * tokens) * square + 2 * queries * (queries + tokens) * 256
        + queries * wide
    )  # fmt: skip
    assert found["heads"] == 6 * queries * (256 * 92 + 2 * square + 256 * 4)
    real = build_model(with_options(args, resume="any", attention="math"))[0]
    real.eval().requires_grad_(False)
    for layer in real.transformer.decoder.layers:
        layer.self_attn.attention = layer.multihead_attn.attention = "math"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        real(torch.zeros(1, 3, 800, 1066))
    assert counter.get_total_flops() == 2 * sum(found.values())
