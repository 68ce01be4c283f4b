"""The two operators against loops, against each other, and their gradients."""

import itertools

import pytest
import torch

from rpe_ops import rpe_index, rpe_index_sum

SIZES = [(2, 3, 5, 7, 4), (1, 1, 1, 1, 1), (1, 2, 6, 3, 9), (2, 1, 0, 3, 4), (1, 2, 4, 0, 3)]


def inputs(b, h, lq, lk, n, dtype=torch.float64):
    table = torch.randn(b, h, lq, n).to(dtype)
    x = torch.randn(b, h, lq, lk).to(dtype)
    index = torch.randint(n, (lq, lk))
    return table, x, index


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_lookup_and_sum_equal_loops(size, dtype):
    table, x, index = inputs(*size, dtype=dtype)
    b, h, lq, lk, n = size
    picked = torch.zeros(b, h, lq, lk, dtype=dtype)
    sums = torch.zeros(b, h, lq, n, dtype=torch.float64)
    for i, j in itertools.product(range(lq), range(lk)):
        picked[:, :, i, j] = table[:, :, i, index[i, j]]
        sums[:, :, i, index[i, j]] += x[:, :, i, j].double()
    assert torch.equal(rpe_index(table, index), picked)
    tolerance = {torch.float16: 1e-2, torch.bfloat16: 1e-1}.get(dtype, 1e-5)
    torch.testing.assert_close(
        rpe_index_sum(x, index, n).double(), sums, atol=tolerance, rtol=tolerance
    )


@pytest.mark.parametrize("size", SIZES)
def test_each_is_the_adjoint_of_the_other(size):
    table, x, index = inputs(*size)
    left = (rpe_index(table, index) * x).sum()
    right = (table * rpe_index_sum(x, index, size[-1])).sum()
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("index_dtype", [torch.int64, torch.int32])
def test_gradients(index_dtype):
    table, x, index = inputs(1, 2, 3, 5, 4)
    index = index.to(index_dtype)
    table.requires_grad_()
    x.requires_grad_()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda t: rpe_index(t, index), table)
        assert check(lambda s: rpe_index_sum(s, index, 4), x)


def test_strided_input_gives_the_same():
    table, x, index = inputs(2, 3, 5, 7, 4)
    strided = table.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    assert torch.equal(rpe_index(strided, index), rpe_index(table, index))
    assert torch.equal(rpe_index_sum(x.mT.contiguous().mT, index, 4), rpe_index_sum(x, index, 4))


def test_what_does_not_fit_is_refused():
    table, x, index = inputs(2, 3, 5, 7, 4)
    with pytest.raises(ValueError, match="4 axes"):
        rpe_index(table[0], index)
    with pytest.raises(ValueError, match="int32 or int64"):
        rpe_index(table, index.float())
    with pytest.raises(ValueError, match="5 queries"):
        rpe_index(table, index[:4])
    with pytest.raises(ValueError, match="last two axes"):
        rpe_index_sum(x, index[:, :3], 4)
