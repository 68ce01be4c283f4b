"""Triton's kernels against loops in float64: on the GPU, or interpreted where is none."""

import itertools

import numpy as np
import pytest
import torch

from rpe_ops import functions, rpe_index, rpe_index_sum
from rpe_ops import triton_lookup as ours
from tests.rpe_ops.operands import DTYPES, inputs

pytestmark = [
    pytest.mark.skipif(ours.NO_TRITON is not None, reason=str(ours.NO_TRITON)),
    # The interpreter's numpy says so of a sum with an infinity.
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
interpreted = pytest.mark.skipif(DEVICE.type == "cuda", reason="needs kernels of the CPU")
# Sums are rounded once to the dtype; those in float32 may differ in the last bits.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 5e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def picked(table, index):
    """The values looked up, by numpy, in float64."""
    wide = table.double().cpu().numpy()
    ids = np.broadcast_to(index.cpu().numpy(), (*table.shape[:2], *index.shape))
    return torch.from_numpy(np.take_along_axis(wide, ids, 3))


def summed(x, index, buckets):
    """The sums, by numpy, one addition after another in float64."""
    sums = np.zeros((*x.shape[:3], buckets))
    where = np.ix_(*map(np.arange, x.shape[:3]))
    for j, ids in enumerate(index.cpu().numpy().T):
        b, h, i = where
        sums[b, h, i, ids] += x[..., j].double().cpu().numpy()
    return torch.from_numpy(sums)


def check(table, x, index):
    """Both operators are what numpy computes."""
    found = ours.lookup(table, index)
    assert found.dtype == table.dtype and found.is_contiguous()
    assert torch.equal(found.double().cpu(), picked(table, index))
    sums = ours.bucket_sum(x, index, table.shape[3])
    assert sums.dtype == x.dtype and sums.is_contiguous()
    wanted = summed(x, index, table.shape[3])
    # As shares of the sum of absolute values: float32's rounding does not know of cancelling.
    scale = summed(x.abs(), index, table.shape[3]) + 1e-300
    assert ((sums.double().cpu() - wanted).abs() / scale).max() <= TOLERANCE[x.dtype]
    assert torch.equal(ours.bucket_sum(x, index, table.shape[3]), sums)


# ---- numbers ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_they_are_what_numpy_computes(dtype):
    """Rows, keys and buckets that fill blocks or do not, and can be read in vectors or cannot."""
    n = 5 if dtype == torch.float64 else 17  # float64 is summed bucket by bucket, slowly
    for size in ((1, 1, 1, 1, 1), (2, 3, 2, 37, 4), (1, 8, 1, 136, n)):
        check(*inputs(*size, dtype, DEVICE))


@pytest.mark.parametrize("buckets", [1, 16, 33, 81, 128, 129, 300])
def test_any_number_of_buckets(buckets):
    check(*inputs(1, 2, 1, 40, buckets, torch.float16, DEVICE))
    block, rest, parts = ours._sum_blocks(buckets)
    assert (parts - 1) * (block + rest) < buckets <= parts * (block + rest)
    assert block + rest <= 128 and rest < block and rest in (0, 16, 32, 64)


@pytest.mark.parametrize("rows", [(1, 17), (4, 8), (3, 11), (5, 15)])
def test_any_number_of_rows(rows):
    check(*inputs(*rows, 1, 33, 9, torch.float32, DEVICE))


def layouts(t):
    """The same values in other memory layouts."""
    wide = torch.stack([t, torch.full_like(t, torch.nan)], dim=-1)
    longer = torch.cat([torch.full_like(t, torch.nan)[..., :3], t], dim=-1)
    return {
        "heads after queries": t.transpose(1, 2).contiguous().transpose(1, 2),
        "last axes swapped": t.mT.contiguous().mT,
        "every second element": wide[..., 0],
        "from the fourth on": longer[..., 3:],
    }


@pytest.mark.parametrize("keys", [24, 25])
def test_strides(keys):
    table, x, index = inputs(2, 2, 2, keys, 3, torch.float32, DEVICE)
    for table_layout, x_layout in zip(layouts(table).values(), layouts(x).values(), strict=True):
        check(table_layout, x_layout, index)
    rows = torch.randn(2, 1, 1, 3, device=DEVICE).expand(2, 2, 2, 3)
    check(rows, torch.randn(2, 1, 1, device=DEVICE)[..., None].expand(2, 2, 2, keys), index)
    check(table, x, index.mT.contiguous().mT)
    check(table, x, torch.stack([index, index.flip(1)], dim=2)[..., 1])


def test_float32_keeps_its_24_bits():
    """Each value alone in its bucket, of every size: the three parts are the whole."""
    exponents = torch.linspace(-100, 127, 64)
    x = (torch.rand(1, 1, 1, 64) + 1) * 2**exponents * torch.tensor([1.0, -1.0]).repeat(32)
    x = x.to(DEVICE)
    x[..., 63] = torch.finfo(torch.float32).max
    index = torch.randperm(64, dtype=torch.int32)[None].to(DEVICE)
    sums = ours.bucket_sum(x, index, 64)
    assert torch.equal(sums[0, 0, 0, index[0].long()], x.flatten())


def test_16_bits_are_summed_in_float32():
    x = torch.ones(1, 1, 1, 600, device=DEVICE)
    index = torch.zeros(1, 600, dtype=torch.int32, device=DEVICE)
    for dtype in (torch.float16, torch.bfloat16):  # bfloat16 alone would not get past 256
        assert ours.bucket_sum(x.to(dtype), index, 1).item() == torch.tensor(600.0).to(dtype)


@pytest.mark.parametrize("buckets", [4, 18])
def test_not_a_number_and_infinity_stay_in_their_bucket(buckets):
    """Of their row, too, and of every block of buckets."""
    x = torch.ones(1, 2, 2, 40, device=DEVICE)
    x[0, 1, 0, 3], x[0, 1, 0, 39] = torch.nan, torch.inf
    index = (torch.arange(40, dtype=torch.int32, device=DEVICE) * buckets // 40).expand(2, 40)
    wanted = summed(x, index, buckets)
    assert wanted.isnan().sum() == 1 and wanted.isinf().sum() == 1
    for dtype in (torch.float32, torch.bfloat16):
        sums = ours.bucket_sum(x.to(dtype), index, buckets)
        torch.testing.assert_close(
            sums.double().cpu(), wanted, rtol=0, atol=0, equal_nan=True
        )  # fmt: skip


@pytest.mark.parametrize("size", [(0, 3, 5, 7, 4), (1, 2, 0, 3, 4), (1, 2, 4, 0, 3)])
def test_empty_tensors(size):
    table, x, index = inputs(*size, torch.float32, DEVICE)
    assert ours.lookup(table, index).shape == x.shape
    sums = ours.bucket_sum(x, index, size[-1])
    assert sums.shape == table.shape and not sums.any()
    assert ours.bucket_sum(x, index, 0).numel() == 0


# ---- what lies outside ----


@pytest.mark.parametrize("wrong", [-1, 4, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_id_out_of_range_makes_nan(wrong, dtype):
    table, x, index = inputs(1, 3, 3, 35, 4, dtype, DEVICE)
    right, right_sums = ours.lookup(table, index), ours.bucket_sum(x, index, 4)
    index[1, 33] = wrong
    found, sums = ours.lookup(table, index), ours.bucket_sum(x, index, 4)
    assert found[:, :, 1, 33].isnan().all() and sums[:, :, 1].isnan().all()
    found[:, :, 1, 33] = right[:, :, 1, 33]
    sums[:, :, 1] = right_sums[:, :, 1]
    assert torch.equal(found, right) and torch.equal(sums, right_sums)
    with pytest.raises(IndexError, match="no bucket"):
        ours.lookup(table[..., :0], index)


def test_a_launch_that_would_be_too_large_is_parted(monkeypatch):
    monkeypatch.setattr(ours, "MAX_PROGRAMS", 7)
    check(*inputs(1, 17, 3, 5, 260, torch.float16, DEVICE))  # 3 programs each: 2 queries, then 1
    monkeypatch.setattr(ours, "MAX_SIZE", 10)
    with pytest.raises(ValueError, match="1 x 17 heads or 5 keys are too many"):
        check(*inputs(1, 17, 1, 5, 3, torch.float32, DEVICE))


@interpreted
def test_offsets_of_64_bits(tmp_path):
    """A sparse file is the memory: 32 bits would reach other places in it, and find zeros."""
    names = itertools.count()

    def memory(dtype):
        path = str(tmp_path / str(next(names)))
        return torch.from_file(path, shared=True, size=6 * 2**30, dtype=dtype)[2**31 :]

    far = 2**30 + 8
    for axis in range(4):
        strides = [72, 24, 8, 1]
        strides[axis] = far
        shape = [3, 3, 3, 8]
        shape[axis] = 4
        t = memory(torch.float16).as_strided(shape, strides, 2**31)
        t[:] = torch.randn(shape).half()
        check(t, t, torch.randint(t.shape[3], t.shape[2:], dtype=torch.int32))

    queries = 2**28 + 3  # the last one's ids and results lie beyond 2^31
    index, out = memory(torch.int32)[: queries * 8].view(queries, 8), memory(torch.float16)
    index[-1] = torch.arange(8).flip(0)
    table = torch.randn(1, 1, 1, 8).half().expand(1, 1, queries, 8)
    for kernel, options in (
        (ours.lookup_kernel, {"BLOCK_R": 1}),
        (ours.sum_kernel, {"BLOCK_R": 16, "BLOCK_N": 16, "REST_N": 0}),
    ):
        of_query = out[(queries - 1) * 8 : queries * 8].zero_()
        kernel[(1,)](
            table, table.stride(), index, out, queries - 1, 1, 1, queries, 8, 8,
            VECTOR=1, BLOCK_K=32, **options,
        )  # fmt: skip
        assert torch.equal(of_query, table[0, 0, 0].flip(0))


# ---- as operators of PyTorch ----


def test_gradients():
    table, x, index = inputs(1, 2, 1, 5, 3, device=DEVICE)
    leaves = [t.requires_grad_() for t in (table, x)]
    for gradcheck in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert gradcheck(lambda t: ours.lookup(t, index), leaves[0], fast_mode=True)
        assert gradcheck(lambda t: ours.bucket_sum(t, index, 3), leaves[1], fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_the_other_operator(dtype):
    table, x, index = inputs(2, 3, 2, 37, 9, dtype, DEVICE)
    leaves = [t.requires_grad_() for t in (table, x)]
    of_table = torch.autograd.grad(ours.lookup(table, index), table, x)[0]
    of_x = torch.autograd.grad(ours.bucket_sum(x, index, 9), x, table)[0]
    assert [t.dtype for t in (of_table, of_x)] == [leaf.dtype for leaf in leaves]
    assert torch.equal(of_x.double().cpu(), picked(table.detach(), index))
    torch.testing.assert_close(
        of_table.double().cpu(), summed(x.detach(), index, 9), atol=0.02, rtol=0.01
    )


@pytest.mark.parametrize("size", [(2, 1, 2, 7, 4), (1, 2, 2, 0, 3)])
def test_operators_keep_the_rules_of_pytorch(size):
    table, x, index = inputs(*size, torch.float32, DEVICE)
    torch.library.opcheck(ours.lookup, (table.requires_grad_(), index))
    torch.library.opcheck(ours.bucket_sum, (x.requires_grad_(), index, size[-1]))


def test_the_functions_call_them_and_compile(monkeypatch):
    monkeypatch.setattr(functions, "_kernels_for", lambda tensor: "triton")
    table, x, index = inputs(1, 2, 3, 7, 4, torch.float32, DEVICE)
    index = index.long()

    def function(table, x):
        return rpe_index_sum(rpe_index(table, index) * x, index, 4).sum()

    leaves = [t.requires_grad_() for t in (table, x)]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    wanted = (picked(table.detach(), index) * x.detach().double().cpu()).sum()
    for found in (function(*leaves), compiled(*leaves)):
        assert found.item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-4)
        of_table, of_x = torch.autograd.grad(found, leaves)
        torch.testing.assert_close(of_x.double().cpu(), picked(table.detach(), index))
        torch.testing.assert_close(of_table.double().cpu(), summed(x.detach(), index, 4))
