"""What other projects do with the encoding: masks, dtypes, torch.func, hooks, copies, exports."""

import importlib.util
import io
import sys

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import prune

from models.rpe_attention import RPEMultiheadAttention
from rpe_ops import functions, is_exporting, rpe_index, rpe_index_ref
from rpe_ops.attention import cpu, encodings, rpe_attention
from rpe_ops.irpe import build_rpe, get_rpe_config
from rpe_ops.library import LIBRARY
from tests.helpers.commands import ROOT

B, H, SIDE, D = 2, 2, 3, 4
L = SIDE * SIDE


@pytest.fixture
def qkv():
    torch.manual_seed(0)
    return [torch.randn(B, H, L, D) for _ in range(3)]


def encoding(on: str) -> list:
    found = build_rpe(get_rpe_config(1.9, rpe_on=on), D, H)
    for rpe in found:
        if rpe is not None:
            nn.init.normal_(rpe.lookup_table_weight)
    return found


# ---- what does not fit ----


@pytest.mark.parametrize(
    ("name", "mask", "says"),
    [
        ("key_padding_mask", torch.zeros(B, L, dtype=torch.uint8), "is torch.uint8: it has to be"),
        (
            "key_padding_mask",
            torch.zeros(B, L - 1, dtype=torch.bool),
            "is \\(2, 8\\), not \\(2, 9\\)",
        ),
        ("key_padding_mask", torch.zeros(1, L, dtype=torch.bool), "is \\(1, 9\\), not \\(2, 9\\)"),
        ("attn_mask", torch.zeros(L, L, dtype=torch.int64), "is torch.int64: it has to be bool"),
        ("attn_mask", torch.zeros(B, L, L), "is .*, not \\(9, 9\\) or \\(4, 9, 9\\)"),
    ],
)
@pytest.mark.parametrize("attention", ["auto", "math", "fused"])
def test_masks_that_do_not_fit(qkv, name, mask, says, attention):
    with pytest.raises(ValueError, match=f"^{name} {says}"):
        rpe_attention(*qkv, *encoding("k"), **{name: mask}, attention=attention)


def test_features_that_do_not_fit(qkv):
    q, k, v = qkv
    with pytest.raises(ValueError, match="they must be"):
        rpe_attention(q, k[..., :3], v, *encoding("k"))


def test_masks_of_a_layer_with_keys_of_its_own():
    """bias_k and the zero key are never masked; bytes are what PyTorch took before booleans."""
    layer = RPEMultiheadAttention(H * D, H, add_bias_kv=True, add_zero_attn=True)
    x = torch.randn(L, B, H * D)
    padding = torch.zeros(B, L, dtype=torch.bool)
    padding[0, 2:] = True
    theirs = nn.MultiheadAttention(H * D, H, add_bias_kv=True, add_zero_attn=True)
    theirs.load_state_dict(layer.state_dict())
    wanted, _ = theirs(x, x, x, key_padding_mask=padding)
    for mask in (padding, padding.byte()):
        torch.testing.assert_close(layer(x, x, x, key_padding_mask=mask)[0], wanted)
    with pytest.raises(ValueError, match="key_padding_mask is"):
        layer(x, x, x, key_padding_mask=padding[:, 1:])


# ---- dtypes ----


@pytest.mark.parametrize("wide", [(0, 1), (0, 1, 2)])
def test_autocast_with_queries_and_keys_of_float32(qkv, wide):
    """As rotary encodings and normalised queries are; the result is that of the formula."""
    given = [(t if i in wide else t.bfloat16()).requires_grad_() for i, t in enumerate(qkv)]
    rpe = encoding("k")
    with torch.autocast("cpu", torch.bfloat16):
        wanted = rpe_attention(*given, *rpe, attention="math")
        found = rpe_attention(*given, *rpe)
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0.03)
    found.float().sum().backward()
    assert all(t.grad is not None for t in given)


# ---- torch.func, forward mode, second derivatives ----


def test_forward_mode_and_torch_func(qkv):
    """Against numbers of the formula's linear and plain parts."""
    q, k, v = qkv
    _, rpe_k, rpe_v = encoding("kv")
    weight = rpe_k.lookup_table_weight.detach()
    change = torch.randn_like(weight)

    def term(table):
        return torch.func.functional_call(rpe_k, {"lookup_table_weight": table}, (q,))

    _, tangent = torch.func.jvp(term, (weight,), (change,))
    torch.testing.assert_close(tangent, term(change))  # it is linear
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(q, v)
        torch.testing.assert_close(forward_ad.unpack_dual(rpe_k(dual)).tangent, rpe_k(v))
    weights = torch.rand(B, H, L, L)
    _, tangent = torch.func.jvp(rpe_v, (weights,), (weights,))
    torch.testing.assert_close(tangent, rpe_v(weights))

    def loss(q, k, v):
        return rpe_attention(q[None], k[None], v[None], None, rpe_k, rpe_v).square().sum()

    found = torch.func.vmap(torch.func.grad(loss))(q, k, v)
    for image, grad in enumerate(found):
        one = q[image].clone().requires_grad_()
        (wanted,) = torch.autograd.grad(loss(one, k[image], v[image]), one)
        torch.testing.assert_close(grad, wanted, atol=1e-4, rtol=1e-4)


# ---- modules that others change ----


def test_pruned_tables_and_hooks(qkv, monkeypatch):
    """They are called, as their hooks have to be, and computed as ever."""
    _, rpe_k, rpe_v = encoding("kv")
    for rpe in (rpe_k, rpe_v):
        prune.random_unstructured(rpe, "lookup_table_weight", 0.5)
    for _ in range(2):  # a second step computes the pruned table again
        wanted = rpe_attention(*qkv, None, rpe_k, rpe_v, attention="math")
        found = rpe_attention(*qkv, None, rpe_k, rpe_v)
        torch.testing.assert_close(found, wanted)
        found.sum().backward()
    assert rpe_k.lookup_table_weight_orig.grad.any()
    calls = []
    _, plain, _ = encoding("k")
    plain.register_forward_hook(lambda *given: calls.append(given))
    rpe_attention(*qkv, None, plain, None)
    assert len(calls) == 1


def test_tables_made_on_the_meta_device_start_at_zero():
    for mode in ("ctx", "bias"):
        with torch.device("meta"):
            rpes = build_rpe(get_rpe_config(1.9, "cross", mode, rpe_on="k"), D, H)
        parts = [part for rpe in rpes if rpe is not None for part in (rpe.rp_rows, rpe.rp_cols)]
        for part in parts:
            part.to_empty(device="cpu")
            for table in part.parameters():
                nn.init.ones_(table)
            part.reset_parameters()
            assert not any(table.any() for table in part.parameters())


def test_a_copy_of_irpe_is_computed_as_fast(qkv, monkeypatch, tmp_path):
    path = tmp_path / "irpe.py"
    path.write_text((ROOT / "rpe_ops" / "irpe.py").read_text())
    spec = importlib.util.spec_from_file_location("irpe", path)
    copy = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "irpe", copy)
    spec.loader.exec_module(copy)
    seen = []
    monkeypatch.setattr(
        cpu, "cpu_attention", lambda *given: seen.append(given) or torch.zeros(()).expand(1)
    )
    for method in ("product", "cross"):
        rpe = copy.build_rpe(copy.get_rpe_config(1.9, method, rpe_on="qkv"), D, H)
        assert all(type(each).__module__ == "irpe" for each in rpe)
        rpe_attention(*qkv, *rpe)
        _, _, _, terms, _, looked_up, values = seen.pop()
        assert (len(terms), len(looked_up), len(values)) == (0, 2, 1 + (method == "cross"))

    class Own(copy.ContextualRPE):
        """A module with a forward of its own."""

    assert encodings._parts(Own(rpe[1].rp_rows.settings, D, H), copy.ContextualRPE) == []


# ---- graphs ----


def test_compiling_is_no_export(qkv, monkeypatch):
    """In torch 2.7 to 2.11 torch.compiler.is_exporting() is true in all of torch.compile."""
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert not is_exporting()
    assert functions._kernels_for(qkv[0]) == ("library" if LIBRARY.devices else "pytorch")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_onnx_of_older_pytorch_has_standard_operators():
    pytest.importorskip("onnx")
    ids = torch.randint(0, 5, (L, L), dtype=torch.int32)

    class Lookup(nn.Module):
        def forward(self, table):
            return rpe_index(table, ids)

    table = torch.randn(1, H, L, 5)
    file = io.BytesIO()
    torch.onnx.export(Lookup(), (table,), file, dynamo=False)
    assert b"GatherElements" in file.getvalue() and b"rpe_ops" not in file.getvalue()
    torch.testing.assert_close(Lookup()(table), rpe_index_ref(table, ids))
