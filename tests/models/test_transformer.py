"""Encoder, decoder and their layers against PyTorch's own, with the same weights."""

import pytest
import torch
from torch import nn

from models.transformer import Transformer, TransformerDecoderLayer, TransformerEncoderLayer
from rpe_ops.irpe import get_rpe_config

WIDTH, HEADS, HIDDEN = 16, 4, 24
TOKENS, QUERIES, BATCH = 6, 5, 2
HW = (2, 3)


def randomised(module: nn.Module) -> nn.Module:
    """Also norms do something then."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double()


def tensor(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def padding() -> torch.Tensor:
    """The last two tokens of the second image."""
    mask = torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    mask[1, -2:] = True
    return mask


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_layer_is_torchs(pre_norm):
    theirs = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, 0.0, norm_first=pre_norm)
    ours = TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, 0.0, pre_norm)
    ours.load_state_dict(randomised(theirs).state_dict())
    src, mask = tensor(TOKENS, BATCH, WIDTH), padding()
    found = ours.double()(src, mask, torch.zeros_like(src), HW)
    torch.testing.assert_close(found, theirs(src, src_key_padding_mask=mask))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_decoder_layer_is_torchs(pre_norm):
    theirs = nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, 0.0, norm_first=pre_norm)
    ours = TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, 0.0, pre_norm)
    ours.load_state_dict(randomised(theirs).state_dict())
    tgt, memory, mask = tensor(QUERIES, BATCH, WIDTH), tensor(TOKENS, BATCH, WIDTH), padding()
    found = ours.double()(
        tgt, memory, mask, torch.zeros_like(memory), query_pos=torch.zeros_like(tgt)
    )
    torch.testing.assert_close(found, theirs(tgt, memory, memory_key_padding_mask=mask))


def attention(layer: nn.Module, query, key, value, mask=None) -> torch.Tensor:
    """torch.nn.MultiheadAttention with the weights of a layer of ours."""
    theirs = nn.MultiheadAttention(WIDTH, HEADS).double()
    theirs.load_state_dict(layer.state_dict())
    return theirs(query, key, value, key_padding_mask=mask, need_weights=False)[0]


def feed_forward(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    hidden = (x @ layer.linear1.weight.T + layer.linear1.bias).clamp(min=0)
    return hidden @ layer.linear2.weight.T + layer.linear2.bias


def test_positions_are_added_to_queries_and_keys_not_to_values():
    mask, pos, query_pos = padding(), tensor(TOKENS, BATCH, WIDTH), tensor(QUERIES, BATCH, WIDTH)
    src, tgt = tensor(TOKENS, BATCH, WIDTH), tensor(QUERIES, BATCH, WIDTH)
    layer = randomised(TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, 0.0))
    x = layer.norm1(src + attention(layer.self_attn, src + pos, src + pos, src, mask))
    wanted = layer.norm2(x + feed_forward(layer, x))
    torch.testing.assert_close(layer(src, mask, pos, HW), wanted)

    layer = randomised(TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, 0.0))
    x = layer.norm1(tgt + attention(layer.self_attn, tgt + query_pos, tgt + query_pos, tgt))
    seen = attention(layer.multihead_attn, x + query_pos, src + pos, src, mask)
    x = layer.norm2(x + seen)
    wanted = layer.norm3(x + feed_forward(layer, x))
    torch.testing.assert_close(layer(tgt, src, mask, pos, query_pos), wanted)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_stacks_and_their_norms(pre_norm):
    """One layer after the other; the encoder has a norm behind it only with pre_norm."""
    model = randomised(Transformer(WIDTH, HEADS, 2, 3, HIDDEN, 0.0, normalize_before=pre_norm))
    src, pos = tensor(BATCH, WIDTH, *HW), tensor(BATCH, WIDTH, *HW)
    mask, queries = padding(), tensor(QUERIES, WIDTH)
    hidden, memory = model(src, mask.view(BATCH, *HW), queries, pos)

    def sequence(x):
        return x.flatten(2).permute(2, 0, 1)

    x = sequence(src)
    for layer in model.encoder.layers:
        x = layer(x, mask, sequence(pos), HW)
    if pre_norm:
        norm = model.encoder.norm
        x = nn.functional.layer_norm(x, (WIDTH,), norm.weight, norm.bias)
    torch.testing.assert_close(sequence(memory), x)
    query_pos = queries[:, None].repeat(1, BATCH, 1)
    y, norm = torch.zeros_like(query_pos), model.decoder.norm
    assert len(hidden) == 3
    for layer, found in zip(model.decoder.layers, hidden, strict=True):
        y = layer(y, x, mask, sequence(pos), query_pos)
        wanted = nn.functional.layer_norm(y, (WIDTH,), norm.weight, norm.bias)
        torch.testing.assert_close(found.transpose(0, 1), wanted)


def test_the_encoder_is_told_the_size():
    """Relative positions of a map that is not square, against their own term of the logits."""
    model = randomised(
        Transformer(
            WIDTH, HEADS, 1, 1, HIDDEN, 0.0, rpe_config=get_rpe_config(2.0, "product", "bias")
        )
    )
    (layer,) = model.encoder.layers
    src, pos = tensor(BATCH, WIDTH, *HW), tensor(BATCH, WIDTH, *HW)
    _, memory = model(src, torch.zeros(BATCH, *HW, dtype=torch.bool), tensor(QUERIES, WIDTH), pos)
    x, place = (t.flatten(2).permute(2, 0, 1) for t in (src, pos))
    # By rows and columns, as tokens lie: (row, column) of each.
    places = [(row, column) for row in range(HW[0]) for column in range(HW[1])]
    table = layer.self_attn.rpe_k.lookup_table_bias[0].view(9, 9)
    bias = torch.stack([
        torch.stack([table[a - c + 4, b - d + 4] for c, d in places]) for a, b in places
    ])  # fmt: skip
    theirs = nn.MultiheadAttention(WIDTH, HEADS).double()
    theirs.load_state_dict(layer.self_attn.state_dict(), strict=False)
    seen = theirs(x + place, x + place, x, attn_mask=bias, need_weights=False)[0]
    x = layer.norm1(x + seen)
    wanted = layer.norm2(x + feed_forward(layer, x))
    torch.testing.assert_close(memory.flatten(2).permute(2, 0, 1), wanted)


# ---- dropout ----


def encoder_case() -> tuple[nn.Module, tuple]:
    layer = TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, 0.5)
    src = tensor(TOKENS, BATCH, WIDTH)
    return layer, (src, padding(), torch.zeros_like(src), HW)


def decoder_case() -> tuple[nn.Module, tuple]:
    layer = TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, 0.5)
    tgt, memory = tensor(QUERIES, BATCH, WIDTH), tensor(TOKENS, BATCH, WIDTH)
    return layer, (tgt, memory, padding(), torch.zeros_like(memory), torch.zeros_like(tgt))


@pytest.mark.parametrize(
    ("case", "place"),
    [
        (encoder_case, "self_attn"),
        (decoder_case, "self_attn"),
        (decoder_case, "multihead_attn"),
        (encoder_case, "dropout"),
        (decoder_case, "dropout"),
    ],
)
def test_each_dropout_acts_alone_and_in_training_only(case, place):
    layer, inputs = case()
    randomised(layer)
    for name, module in layer.named_children():
        if name != place and "attn" in name:
            module.dropout = 0.0
        elif name != place and name == "dropout":
            module.p = 0.0
    layer.train()
    assert not torch.equal(layer(*inputs), layer(*inputs))
    layer.eval()
    assert torch.equal(layer(*inputs), layer(*inputs))


@pytest.mark.parametrize(("stack", "residuals"), [("encoder", 2), ("decoder", 3)])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_dropout_of_everything_leaves_the_residuals(stack, residuals, pre_norm, monkeypatch):
    """Each block is dropped as a whole: with dropout of all, a layer adds nothing."""
    kind = {"encoder": TransformerEncoderLayer, "decoder": TransformerDecoderLayer}[stack]
    layer = randomised(kind(WIDTH, HEADS, HIDDEN, 0.5, pre_norm))
    calls = []

    def nothing(x):
        calls.append(x.shape)
        return torch.zeros_like(x)

    monkeypatch.setattr(layer.dropout, "forward", nothing)
    case = {"encoder": encoder_case, "decoder": decoder_case}[stack]
    _, (x, *rest) = case()
    wanted = x
    if not pre_norm:
        for number in range(1, residuals + 1):
            wanted = layer.get_submodule(f"norm{number}")(wanted)
    torch.testing.assert_close(layer(x, *rest), wanted)
    assert len(calls) == residuals + 1  # and one within the feed-forward block
