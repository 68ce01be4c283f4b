"""--dec_rpe: what a query's reference box adds to the logits of its attention."""

import argparse
import math

import pytest
import torch
from torch import nn

from models.box_bias import BoxBias, ReferenceBoxes, attend_around_boxes, bias
from models.box_bias.dec_rpe import DecRPE, dec_rpe_of_weights, parse_dec_rpe
from models.box_bias.offsets import edge_offsets, pair_relations, pixel_centres, scaled_offsets
from models.option_values import dec_rpe_argument
from models.rpe_attention import RPEMultiheadAttention

WIDTH, HEADS, QUERIES, BATCH = 16, 4, 5, 2
HW = (3, 4)
FORMS = r"\(format: box-\{linear\|log\} or box-\{linear\|log\}-relation"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def references(text="box-log-relation", width=WIDTH):
    """Return reference boxes in which everything counts, float64."""
    module = ReferenceBoxes(width, HEADS, parse_dec_rpe(text))
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.double()


def random_logits():
    return torch.randn(BATCH, QUERIES, 4, dtype=torch.float64)


def padded(hw=HW):
    """Of two maps of 3 x 4 pixels the second one has 2 x 3."""
    mask = torch.zeros(BATCH, *hw, dtype=torch.bool)
    mask[1, 2:], mask[1, :, 3:] = True, True
    return mask


def network(layers, values):
    """Run a bias network on a list of numbers, by its formula."""
    x = torch.tensor(values, dtype=torch.float64)
    first, _, last = layers
    return (first.weight @ x + first.bias).clamp(min=0) @ last.weight.T + last.bias


# ---- the string ----


def test_strings():
    assert parse_dec_rpe("box-linear") == DecRPE("linear", False)
    assert parse_dec_rpe("box-log-relation") == DecRPE("log", True)
    assert parse_dec_rpe("") is None and parse_dec_rpe(None) is None
    for text in ("box-linear", "box-log", "box-linear-relation", "box-log-relation"):
        assert str(parse_dec_rpe(text)) == text == dec_rpe_argument(text)
    assert "log offsets" in DecRPE("log").describe()
    assert "relations" not in DecRPE("log").describe()
    assert "relations" in DecRPE("log", True).describe()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("log", "must begin with box, begins with 'log'"),
        ("box", "has 1 fields instead of 2 or 3"),
        ("box-log-relation-1", "has 4 fields"),
        ("box-cubic", "mode must be linear or log, is 'cubic'"),
        ("box-log-pairs", "the third field can only be relation, is 'pairs'"),
        ("box-log-", "can only be relation, is ''"),
    ],
)
def test_wrong_strings(text, says):
    with pytest.raises(ValueError, match=f"^'{text}': .*{says}.* {FORMS}"):
        parse_dec_rpe(text)
    with pytest.raises(argparse.ArgumentTypeError, match=FORMS):
        dec_rpe_argument(text)


@pytest.mark.parametrize("text", ["box-linear", "box-log", "box-linear-relation"])
def test_weights_say_what_they_are(text):
    names = [f"transformer.decoder.references.{name}" for name in references(text).state_dict()]
    assert dec_rpe_of_weights(["class_embed.bias", *names]) == text
    assert dec_rpe_of_weights(["class_embed.bias"]) == ""


# ---- offsets ----


def test_centres_of_pixels_by_hand():
    """In the second image 3 columns and 2 rows are not padding."""
    x, y = pixel_centres(padded())
    torch.testing.assert_close(x[0], torch.tensor([1 / 8, 3 / 8, 5 / 8, 7 / 8]))
    torch.testing.assert_close(y[0], torch.tensor([1 / 6, 1 / 2, 5 / 6]))
    torch.testing.assert_close(x[1], torch.tensor([1 / 6, 1 / 2, 5 / 6, 7 / 6]))
    torch.testing.assert_close(y[1], torch.tensor([1 / 4, 3 / 4, 5 / 4]))


def test_offsets_by_hand():
    """A box from 0.2 to 0.6 in x, from 0.1 to 0.9 in y."""
    boxes = torch.tensor([[[0.4, 0.5, 0.4, 0.8]]])
    x, y = edge_offsets(boxes, torch.tensor([[0.25, 0.75]]), torch.tensor([[0.5]]))
    torch.testing.assert_close(x, torch.tensor([[[[0.05, -0.35], [0.55, 0.15]]]]))
    torch.testing.assert_close(y, torch.tensor([[[[0.4, -0.4]]]]))


def test_scales():
    offsets = torch.tensor([-1.0, -0.125, 0.0, 0.125, 0.375, 0.875])
    assert torch.equal(scaled_offsets(offsets, "linear"), offsets)
    wanted = torch.tensor([-math.log2(9) / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1])
    torch.testing.assert_close(scaled_offsets(offsets, "log"), wanted)


def test_relations_by_hand():
    boxes = torch.tensor([[[0.2, 0.5, 0.1, 0.4], [0.5, 0.1, 0.2, 0.2]]])
    wanted = torch.tensor([
        [[0, 0, 0, 0], [math.log(4), math.log(2), -math.log(2), math.log(2)]],
        [[math.log(2.5), math.log(3), math.log(2), -math.log(2)], [0, 0, 0, 0]],
    ])  # fmt: skip
    torch.testing.assert_close(pair_relations(boxes)[0], wanted, atol=1e-6, rtol=1e-6)
    assert pair_relations(torch.tensor([[[0.5, 0.5, 0, 0], [1, 1, 1, 1]]])).isfinite().all()


# ---- the bias ----


@pytest.mark.parametrize("text", ["box-linear", "box-log-relation"])
def test_bias_equals_a_loop(text):
    module, logits, mask = references(text), random_logits(), padded()
    padding = torch.zeros(BATCH, 12, dtype=torch.float64).masked_fill_(mask.flatten(1), -torch.inf)
    found = module(logits, mask)
    whole = found.of_pixels(padding).view(BATCH, HEADS, QUERIES, *HW)
    networks = getattr(module, f"{text.split('-')[1]}_offsets")

    def scale(d):
        if text == "box-linear":
            return d
        return math.copysign(math.log(abs(8 * d) + 1) / math.log(8), d)

    boxes = 1 / (1 + (-logits).exp())
    for i, (height, width) in enumerate([(3, 4), (2, 3)]):
        for q, (cx, cy, w, h) in enumerate(boxes[i].tolist()):
            for row in range(HW[0]):
                for column in range(HW[1]):
                    if row >= height or column >= width:
                        assert (whole[i, :, q, row, column] == -torch.inf).all()
                        continue
                    x, y = (column + 0.5) / width, (row + 0.5) / height
                    of_x = network(networks["x"], [scale(x - cx + w / 2), scale(x - cx - w / 2)])
                    of_y = network(networks["y"], [scale(y - cy + h / 2), scale(y - cy - h / 2)])
                    torch.testing.assert_close(
                        whole[i, :, q, row, column], of_x + of_y, atol=1e-6, rtol=1e-6
                    )
    if "relation" not in text:
        assert found.pairs is None
        return
    pairs = found.pairs.view(BATCH, HEADS, QUERIES, QUERIES)
    for i in range(BATCH):
        for a, (ax, ay, aw, ah) in enumerate(boxes[i].tolist()):
            for b, (bx, by, bw, bh) in enumerate(boxes[i].tolist()):
                relation = [math.log(abs(ax - bx) / aw + 1), math.log(abs(ay - by) / ah + 1),
                            math.log(aw / bw), math.log(ah / bh)]  # fmt: skip
                torch.testing.assert_close(pairs[i, :, a, b], network(module.pairs, relation))


def test_log_offsets_are_those_of_sam_3():
    """transformers' SAM 3, with the same weights; its coordinates are pixels' left edges."""
    sam3 = pytest.importorskip("transformers.models.sam3")
    decoder = pytest.importorskip("transformers.models.sam3.modeling_sam3").Sam3DetrDecoder
    config = sam3.Sam3DETRDecoderConfig(
        hidden_size=64, num_attention_heads=HEADS, num_layers=1, intermediate_size=8
    )
    theirs = decoder(config).double()
    module = references("box-log", 64)
    for axis, there in (("x", theirs.box_rpb_embed_x), ("y", theirs.box_rpb_embed_y)):
        for here, parameter in zip(
            module.log_offsets[axis].parameters(), there.parameters(), strict=True
        ):
            nn.init.normal_(parameter)
            assert parameter.shape == here.shape
            here.data.copy_(parameter)
    for height, width in ((5, 7), (12, 3), (1, 1)):
        boxes = torch.rand(BATCH, QUERIES, 4, dtype=torch.float64)
        with torch.no_grad():
            wanted = theirs._get_rpb_matrix(boxes, (height, width))
            edges = [
                (torch.arange(size, dtype=torch.float64) / size).expand(BATCH, -1)
                for size in (width, height)
            ]
            columns, rows = module.pixels(*edge_offsets(boxes, *edges))
            found = BoxBias(rows, columns, None).of_pixels(boxes.new_zeros(BATCH, height * width))
        wanted = wanted.flatten(0, 1)
        assert wanted.abs().max() > 1
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


def test_new_bias_is_neutral():
    module = references()
    module.start_neutral()
    for part in module(random_logits(), padded()):
        assert not part.any()


# ---- attention ----


def attention_case():
    attention = RPEMultiheadAttention(WIDTH, HEADS).double()
    mask = padded()
    query = torch.randn(QUERIES, BATCH, WIDTH, dtype=torch.float64)
    key, value = torch.randn(2, 12, BATCH, WIDTH, dtype=torch.float64)
    padding = torch.zeros(BATCH, 12, dtype=torch.float64).masked_fill_(mask.flatten(1), -torch.inf)
    return attention, mask, (query, key, value, padding)


def test_gradients():
    module, logits = references(), random_logits().requires_grad_()
    attention, mask, (query, key, value, padding) = attention_case()
    query.requires_grad_()

    def attend(logits, query, *_):
        box_bias = module(logits, mask)
        seen = attend_around_boxes(attention, query, key, value, padding, box_bias)
        return attention(seen, seen, seen, attn_mask=box_bias.pairs, need_weights=False)[0]

    weights = [*module.log_offsets.parameters(), *module.pairs.parameters()]
    assert torch.autograd.gradcheck(attend, (logits, query, *weights), fast_mode=True)


def test_attention_equals_torchs():
    attention, mask, (query, key, value, padding) = attention_case()
    box_bias = references()(random_logits(), mask)
    theirs = nn.MultiheadAttention(WIDTH, HEADS).double()
    theirs.load_state_dict(attention.state_dict())
    term = box_bias.rows[..., :, None] + box_bias.columns[..., None, :]
    term = term.flatten(3).masked_fill(mask.flatten(1)[:, None, None], -torch.inf).flatten(0, 1)
    wanted = theirs(query, key, value, attn_mask=term, need_weights=False)[0]
    found = attend_around_boxes(attention, query, key, value, padding, box_bias)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_bias_of_all_pixels_is_not_kept(dropout, monkeypatch):
    """Of the size of the logits, only what attention keeps without a bias; on GPUs nothing."""
    module = references()
    kept = {}
    for case in ("without", "cpu", "gpu"):
        torch.manual_seed(1)
        attention, mask, (query, key, value, padding) = attention_case()
        attention.dropout = dropout
        query.requires_grad_()
        monkeypatch.setattr(bias, "keeps_masks", lambda device, case=case: case == "gpu")
        large: list[torch.Tensor] = []

        def pack(tensor, large=large):
            if tensor.numel() == BATCH * HEADS * QUERIES * 12 and tensor.is_floating_point():
                large.append(tensor)
            return tensor

        torch.manual_seed(2)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            if case == "without":
                term = torch.zeros(1, HEADS, QUERIES, 12, dtype=torch.float64, requires_grad=True)
                term = term.expand(BATCH, -1, -1, -1).flatten(0, 1)
                out = attention(query, key, value, attn_mask=term, need_weights=False)[0]
            else:
                box_bias = module(random_logits(), mask)
                out = attend_around_boxes(attention, query, key, value, padding, box_bias)
        kept[case] = len({tensor.data_ptr() for tensor in large})
        out.square().sum().backward()
        if case == "cpu":
            gradient = query.grad
        elif case == "gpu":
            torch.testing.assert_close(query.grad, gradient)
    assert kept == {"without": 1, "cpu": 1, "gpu": 0}
