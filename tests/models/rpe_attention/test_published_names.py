"""Code that was written for the published irpe.py and rpe_ops runs with these."""

import importlib
import itertools

import pytest
import torch
from torch import nn

import rpe_ops
from rpe_ops.irpe import (
    METHOD,
    build_rpe,
    get_bucket_ids_2d,
    get_num_buckets,
    get_rpe_config,
    get_single_rpe_config,
    iRPE,
    iRPE_Cross,
)


def lookup_by_loop(table, index):
    batch, heads, length, _ = table.shape
    out = table.new_empty(batch, heads, *index.shape)
    for b, h, i in itertools.product(range(batch), range(heads), range(length)):
        for j in range(index.shape[1]):
            out[b, h, i, j] = table[b, h, i, index[i, j]]
    return out


def test_the_module_does_not_hide_the_function():
    module = importlib.import_module("rpe_ops.rpe_index")
    from rpe_ops.rpe_index import RPEIndexFunction

    assert module.RPEIndexFunction is RPEIndexFunction
    assert callable(rpe_ops.rpe_index)
    assert rpe_ops.rpe_index(torch.ones(1, 1, 2, 3), torch.tensor([[0], [2]])).shape == (1, 1, 2, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_the_function_looks_up_and_sums(dtype, compiled):
    """The ids are any: those of key points, say, of fewer keys than queries."""
    from rpe_ops.rpe_index import RPEIndexFunction

    generator = torch.Generator().manual_seed(0)
    table = torch.randn(2, 3, 5, 7, generator=generator).to(dtype).requires_grad_()
    index = torch.randint(7, (5, 4), generator=generator, dtype=torch.int32)
    apply = torch.compile(RPEIndexFunction.apply) if compiled else RPEIndexFunction.apply
    out = apply(table, index)
    assert torch.equal(out, lookup_by_loop(table, index))
    grad = torch.randint(-4, 5, out.shape, generator=generator).to(dtype)  # sums are exact
    out.backward(grad)
    wanted = torch.zeros_like(table)
    for i, j in itertools.product(range(5), range(4)):
        wanted[:, :, i, index[i, j]] += grad[:, :, i, j]
    assert torch.equal(table.grad, wanted)


def test_configurations_are_read_by_name():
    config = get_rpe_config(ratio=1.9, method="product", mode="ctx", skip=1, rpe_on="qk")
    assert config["rpe_v"] is None and config.get("rpe_v") is None
    assert config["rpe_q"] == config.rpe_q == config.get("rpe_q")
    rpe = config["rpe_k"]
    assert [rpe[name] for name in ("alpha", "beta", "gamma")] == [1.9, 3.8, 15.2]
    assert (rpe["shared_head"], rpe["mode"], rpe["method"]) == (True, "contextual", METHOD.PRODUCT)
    assert rpe["num_buckets"] == 50 and rpe.get("num_buckets", 3) == 50
    assert rpe.get("no such name", 3) == 3
    for owner in (config, rpe):
        with pytest.raises(KeyError, match="no such name"):
            owner["no such name"]
    single = get_single_rpe_config(2.0, METHOD.EUCLIDEAN, "bias", shared_head=False, skip=2)
    assert (single["num_buckets"], single["mode"], single["skip"]) == (10, "bias", 2)


def test_numbers_and_ids_of_buckets():
    assert get_num_buckets(METHOD.PRODUCT, 1.9, 3.8, 15.2) == 49
    assert get_num_buckets(METHOD.QUANT, 2.5, 5.0, 20.0) == 11
    ids, count = get_bucket_ids_2d(METHOD.PRODUCT, 2, 3, 1, 2.0, 4.0, 16.0)
    assert ids.shape == (7, 7) and ids.dtype == torch.int64 and count == 82
    assert (ids[0] == 81).all() and (ids[:, 0] == 81).all()
    # From (0, 0) to (1, 2): rows -1, columns -2, in 9 x 9 buckets around (4, 4).
    assert ids[1 + 0, 1 + 5] == (4 - 1) * 9 + (4 - 2)
    ids, count = get_bucket_ids_2d(METHOD.CROSS_COLS, 2, 3, 0, 2.0, 4.0, 16.0, torch.int32)
    assert ids.dtype == torch.int32 and count == 9 and ids[0, 5] == 2
    with pytest.raises(ValueError, match=r"beta and gamma must be 4\.0 and 16\.0"):
        get_bucket_ids_2d(METHOD.PRODUCT, 2, 3, 0, 2.0, 5.0, 16.0)
    with pytest.raises(ValueError, match="CROSS_ROWS"):
        get_bucket_ids_2d(METHOD.CROSS, 2, 3, 0, 2.0, 4.0, 16.0)


@pytest.mark.parametrize("method", [METHOD.EUCLIDEAN, METHOD.QUANT, METHOD.PRODUCT])
@pytest.mark.parametrize(
    ("mode", "transposed"), [("contextual", True), ("contextual", False), ("bias", True)]
)
@pytest.mark.parametrize("shared", [True, False])
def test_modules_by_their_published_constructor(method, mode, transposed, shared):
    config = get_single_rpe_config(1.9, method, mode, shared, skip=1)
    module = iRPE(
        head_dim=4, num_heads=1 if shared else 3, mode=mode, method=method, transposed=transposed,
        num_buckets=config["num_buckets"], initializer=nn.init.normal_, rpe_config=config,
    )  # fmt: skip
    layer = get_rpe_config(1.9, method, mode, shared, 1, "k" if transposed else "v")
    wanted = build_rpe(layer, 4, 3)[1 if transposed else 2]
    assert all(table.std() > 0.3 for table in module.parameters())
    wanted.load_state_dict(module.state_dict())
    x = torch.randn(2, 3, 1 + 6, 4 if transposed else 7)
    torch.testing.assert_close(
        module(x, height=2, width=3).expand(2, 3, 7, -1), wanted(x, 2, 3).expand(2, 3, 7, -1)
    )


def test_cross_by_its_published_constructor():
    config = get_single_rpe_config(1.9, METHOD.CROSS, "contextual", False, 0)
    module = iRPE_Cross(
        head_dim=4, num_heads=3, mode="contextual", method=METHOD.CROSS, transposed=True,
        num_buckets=config["num_buckets"], rpe_config=config,
    )  # fmt: skip
    _, wanted, _ = build_rpe(get_rpe_config(1.9, "cross", "ctx", False), 4, 3)
    assert module.state_dict().keys() == wanted.state_dict().keys()
    for table in module.parameters():
        nn.init.normal_(table)
    wanted.load_state_dict(module.state_dict())
    x = torch.randn(2, 3, 9, 4)
    assert torch.equal(module(x), wanted(x))
    with pytest.raises(ValueError, match=r"METHOD\.CROSS"):
        iRPE_Cross(METHOD.PRODUCT, head_dim=4, rpe_config=config)


def test_constructors_name_what_is_wrong():
    config = get_single_rpe_config(2.0)
    with pytest.raises(ValueError, match="num_buckets must be 81, or one more"):
        iRPE(4, num_buckets=83, rpe_config=config)
    with pytest.raises(ValueError, match="rpe_config is missing"):
        iRPE(4)
