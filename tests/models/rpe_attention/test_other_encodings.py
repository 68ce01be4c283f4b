"""Rotary encoding and continuous bias in the attention layer, in the encoder and in options."""

import argparse

import pytest
import torch
from torch import nn
from torch.export import Dim

from argument_checks import check_attention, check_model_options
from models.option_values import dec_rpe_argument, encoding_argument, rpe_argument
from models.rpe_attention import RPEMultiheadAttention
from models.rpe_attention.continuous_bias import ContinuousBias, ContinuousBiasConfig
from models.rpe_attention.enc_rpe2d import parse_encoding, parse_rpe_string, same_encoding
from models.rpe_attention.rotary import RotaryConfig
from models.transformer import Transformer, TransformerEncoder, TransformerEncoderLayer
from rpe_ops.attention import choice, find_maps, fused
from rpe_ops.attention.call import AttentionCall
from rpe_ops.irpe import get_rpe_config
from util.errors import UserError

E, H, SIZE = 16, 2, (3, 4)
TEXTS = ("rope-axial", "rope-mixed", "cpb-log")


def randomised(module):
    """Weights that make attention uneven, and a bias that is not constant."""
    for name, parameter in module.named_parameters():
        if "rope" not in name and "norm" not in name:
            nn.init.normal_(parameter, std=0.5)
    return module.double()


@pytest.fixture(params=TEXTS)
def layer(request):
    torch.manual_seed(0)
    return randomised(RPEMultiheadAttention(E, H, rpe_config=parse_encoding(request.param)))


# ---- the string ----


def test_strings_give_their_configurations():
    assert parse_encoding("") is None
    assert parse_encoding("rope-axial") == RotaryConfig(False, 100)
    assert parse_encoding("rope-axial-100") == parse_encoding("rope-axial")
    assert parse_encoding("rope-axial-2.5e3") == RotaryConfig(False, 2500)
    assert parse_encoding("rope-mixed") == RotaryConfig(True, 10)
    assert parse_encoding("cpb-log") == ContinuousBiasConfig()
    text = "rpe-2.0-product-ctx-1-k"
    assert parse_encoding(text) == parse_rpe_string(text) == get_rpe_config(2.0, rpe_on="k")
    assert same_encoding("rpe-2-product-ctx-1-k", text) and not same_encoding("", text)
    assert not same_encoding("rpe-2.5-product-ctx-1-k", text)
    for parse in (encoding_argument, rpe_argument, dec_rpe_argument):
        assert parse("none") == parse("") == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rope", "is not known"),
        ("rope-2d", "is not known"),
        ("rope-mixed-10", "is not known"),
        ("cpb", "is not known"),
        ("cpb-lin", "is not known"),
        ("nothing", "must begin with rpe, rope or cpb"),
        ("rope-axial-", "base must be a number above 1, at most 1e+09, is ''"),
        ("rope-axial-1", "base must be a number above 1, at most 1e+09, is '1'"),
        ("rope-axial-nan", "is 'nan'"),
        ("rope-axial-inf", "is 'inf'"),
        ("rope-axial-ten", "is 'ten'"),
    ],
)
def test_wrong_strings_get_one_line_with_the_formats(text, says):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        encoding_argument(text)
    said = str(error.value)
    assert repr(text) in said and says in said and "rope-axial-{base}" in said
    assert "\n" not in said


@pytest.mark.parametrize("text", TEXTS)
def test_classifiers_refuse_them(text):
    """They have a class token, which is nowhere on the map."""
    for check in (rpe_argument, lambda text: parse_rpe_string(text, skip=1)):
        with pytest.raises((ValueError, argparse.ArgumentTypeError), match="encoder alone"):
            check(text)


def test_options_that_do_not_fit(args):
    options = ["--hidden_dim", "36", "--nheads", "6", "--backbone_weights", "none"]
    for text in ("rope-axial-7", "rope-mixed"):
        given = args(*options, "--enc_rpe2d", text)
        with pytest.raises(UserError, match=f"{text} needs heads of a multiple of 4.* / .* is 6"):
            check_model_options(given, weights_are_given=True)
    check_model_options(args(*options, "--enc_rpe2d", "cpb-log"), weights_are_given=True)
    check_model_options(args("--enc_rpe2d", "rope-axial"), weights_are_given=True)
    for text in TEXTS:
        with pytest.raises(UserError, match=f"--attention fused: .*--enc_rpe2d {text} has none"):
            check_attention(args("--enc_rpe2d", text, "--attention", "fused"), torch.device("cpu"))


# ---- the layer ----


def formula(layer, x, padding):
    """softmax(turned q . turned k / sqrt(D) + bias) v, head by head."""
    parts = []
    q, k, v = (
        (x @ w.T + b).unflatten(-1, (H, -1)).permute(1, 2, 0, 3)
        for w, b in zip(layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True)
    )
    if layer.rope is not None:
        q, k = layer.rope(q, k, *SIZE)
    for head in range(H):
        logits = q[:, head] @ k[:, head].mT / (E // H) ** 0.5
        if layer.cpb is not None:
            logits = logits + layer.cpb(q, *SIZE)[0, head]
        weights = logits.masked_fill(padding[:, None], float("-inf")).softmax(-1)
        parts.append(weights @ v[:, head])
    out = torch.cat(parts, -1) @ layer.out_proj.weight.T + layer.out_proj.bias
    return out.transpose(0, 1)


@pytest.mark.parametrize("attention", ["auto", "sdpa", "math"])
def test_every_way_computes_the_formula(layer, attention):
    layer.attention = attention
    x = torch.randn(12, 2, E, dtype=torch.float64, requires_grad=True)
    padding = torch.zeros(2, 12, dtype=torch.bool)
    padding[1, 9:] = True
    leaves = [x, *layer.parameters()]
    wanted = formula(layer, x, padding)
    wanted_gradients = torch.autograd.grad(wanted.square().sum(), leaves)
    for need_weights in (False, True):
        out, _ = layer(x, x, x, key_padding_mask=padding, hw=SIZE, need_weights=need_weights)
        torch.testing.assert_close(out, wanted)
        found = torch.autograd.grad(out.square().sum(), leaves)
        torch.testing.assert_close(found, wanted_gradients)
    with torch.no_grad():
        out, _ = layer(x, x, x, key_padding_mask=padding, hw=SIZE, need_weights=False)
    torch.testing.assert_close(out, wanted)


def test_on_gpus_a_bias_goes_to_pytorchs_attention():
    """The fused kernels look up tables of buckets, which it does not have."""
    q, k, v = torch.randn(3, 1, H, 12, 8)
    maps = find_maps(12, 12, SIZE, 0)
    call = AttentionCall(q, k, v, 1.0, maps, rpe_k=ContinuousBias(H))
    assert not choice.fused_wins(call)
    assert fused.why_not(call) == "it does not know ContinuousBias"


def test_it_changes_attention(layer):
    x = torch.randn(12, 1, E, dtype=torch.float64)
    out = layer(x, x, x, hw=SIZE)[0]
    other = layer(x, x, x, hw=SIZE[::-1])[0]
    layer.rope = layer.cpb = None
    without = layer(x, x, x, hw=SIZE)[0]
    assert (out - without).abs().max() > 1e-3 and (out - other).abs().max() > 1e-3


class OfMap(nn.Module):
    """Attention of a map (B, E, h, w), as the encoder calls it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, image):
        x = image.flatten(2).permute(2, 0, 1)
        return self.layer(x, x, x, need_weights=False, hw=tuple(image.shape[2:]))[0]


def test_graphs_have_maps_of_any_size(layer):
    """A size that becomes constant, as len() makes it, is noticed by the graph's guards."""
    dims = {0: Dim("batch", min=1), 2: Dim("height", min=2), 3: Dim("width", min=2)}
    example = torch.randn(2, E, 3, 4, dtype=torch.float64)
    whole = OfMap(layer.eval())
    graph = torch.export.export(whole, (example,), dynamic_shapes=(dims,)).module()
    for size in ((1, E, 5, 3), (3, E, 2, 9)):
        image = torch.randn(size, dtype=torch.float64)
        torch.testing.assert_close(graph(image), whole(image))


def test_what_is_not_one_map_is_refused(layer):
    x = torch.randn(12, 1, E, dtype=torch.float64)
    with pytest.raises(ValueError, match="one map"):
        layer(x, x, x, hw=((3, 4), (4, 3)))
    with pytest.raises(ValueError, match=r"12 queries are not a map of 3 x 3"):
        layer(x, x, x, hw=(3, 3))
    with pytest.raises(ValueError, match="add_bias_kv"):
        RPEMultiheadAttention(E, H, add_bias_kv=True, rpe_config=parse_encoding("cpb-log"))


# ---- the encoder ----


@pytest.mark.parametrize("text", TEXTS)
def test_padding_changes_nothing(text):
    """An image of 3 x 4 tokens within a map of 5 x 6 is encoded as it is alone."""
    torch.manual_seed(0)
    layer = randomised(TransformerEncoderLayer(E, H, 24, 0.0, rpe_config=parse_encoding(text)))
    image = torch.randn(1, E, 3, 4, dtype=torch.float64)
    padded = torch.randn(1, E, 5, 6, dtype=torch.float64)
    padded[:, :, :3, :4] = image
    mask = torch.ones(1, 5, 6, dtype=torch.bool)
    mask[:, :3, :4] = False

    def encode(image, mask):
        x = image.flatten(2).permute(2, 0, 1)
        out = layer(x, mask.flatten(1), torch.zeros_like(x), tuple(image.shape[2:]))
        return out.permute(1, 2, 0).unflatten(2, image.shape[2:])

    alone = encode(image, torch.zeros(1, 3, 4, dtype=torch.bool))
    torch.testing.assert_close(encode(padded, mask)[:, :, :3, :4], alone)


@pytest.mark.parametrize("text", TEXTS)
def test_checkpointing_has_the_same_gradients(text):
    def gradients(keep_inputs_only):
        torch.manual_seed(0)
        layers = [TransformerEncoderLayer(E, H, 24, rpe_config=parse_encoding(text))]
        encoder = TransformerEncoder(layers, None, keep_inputs_only)
        x = torch.randn(12, 1, E)
        encoder(x, torch.zeros(1, 12, dtype=torch.bool), torch.zeros_like(x), SIZE).sum().backward()
        return [parameter.grad for parameter in encoder.parameters()]

    plain, again = gradients(False), gradients(True)
    assert all(torch.equal(*pair) for pair in zip(plain, again, strict=True))


def test_the_transformer_leaves_first_values_alone():
    """It draws all matrices again, but not frequencies, nor a bias that starts without effect."""
    torch.manual_seed(0)
    model = Transformer(E, H, 2, 1, 24, rpe_config=parse_encoding("rope-mixed"))
    freqs = [layer.self_attn.rope.freqs for layer in model.encoder.layers]
    sizes = torch.tensor([1, 10**-0.5]).repeat(2)
    for one in freqs:
        torch.testing.assert_close(one.norm(dim=0), sizes.expand(H, -1))
    assert not torch.equal(*freqs)
    model = Transformer(E, H, 2, 1, 24, rpe_config=parse_encoding("cpb-log"))
    biases = [module for module in model.modules() if isinstance(module, ContinuousBias)]
    assert len(biases) == 2
    for bias in biases:
        assert not bias.mlp[2].weight.any() and bias.mlp[0].weight.std() > 0.3
    names = Transformer(E, H, 1, 1, 24, rpe_config=parse_encoding("rope-axial")).state_dict()
    assert [name for name in names if "rope" in name] == ["encoder.layers.0.self_attn.rope.freqs"]
    plain = Transformer(E, H, 1, 1, 24).state_dict()
    assert not [name for name in plain if "rope" in name or "cpb" in name]
