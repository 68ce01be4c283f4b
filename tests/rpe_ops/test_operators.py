"""The two operators against their references, against loops, and in every layout and dtype."""

import itertools

import pytest
import torch

from rpe_ops import rpe_index, rpe_index_ref, rpe_index_sum, rpe_index_sum_ref
from rpe_ops.irpe import bucket_ids, get_rpe_config
from tests.rpe_ops.operands import DTYPES, TOLERANCE, inputs

LENGTHS = [0, 1, 7, 850]
BUCKETS = [1, 9, 49, 169, 170]


def strided(t: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the same values in other memory layouts."""
    wide = torch.stack([t, torch.full_like(t, torch.nan)], dim=-1)
    return {
        "contiguous": t,
        "heads after queries": t.transpose(1, 2).contiguous().transpose(1, 2),
        "last axes swapped": t.mT.contiguous().mT,
        "every second element": wide[..., 0],
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lq", LENGTHS)
def test_kernels_equal_the_references(device, dtype, lq):
    for lk, n in itertools.product(LENGTHS, BUCKETS):
        table, x, index = inputs(1, 3, lq, lk, n, dtype, device)
        wanted = rpe_index_ref(table, index)
        wanted_sum = rpe_index_sum_ref(x.double(), index, n)
        atol = TOLERANCE[dtype] * max(1, lk / n) ** 0.5
        for layout, other in strided(table).items():
            assert torch.equal(rpe_index(other, index), wanted), (layout, lk, n)
        for layout, other in strided(x).items():
            sums = rpe_index_sum(other, index, n)
            assert sums.dtype == dtype and sums.is_contiguous()
            torch.testing.assert_close(
                sums.double(), wanted_sum, atol=atol, rtol=TOLERANCE[dtype],
                msg=lambda text, case=(layout, lk, n): f"{case}: {text}",
            )  # fmt: skip
            assert torch.equal(rpe_index_sum(other, index, n), sums)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [(2, 8), (1, 17), (3, 11)])
def test_any_number_of_batches_and_heads(device, dtype, rows):
    """The CPU kernels take 16 (b, h) at a time, threads share queries when these are few."""
    for lq, lk, n in ((3, 65, 81), (40, 33, 300)):
        table, x, index = inputs(*rows, lq, lk, n, dtype, device)
        assert torch.equal(rpe_index(table, index), rpe_index_ref(table, index))
        torch.testing.assert_close(
            rpe_index_sum(x, index, n), rpe_index_sum_ref(x, index, n),
            atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype],
        )  # fmt: skip


def test_results_too_large_for_the_caches(device):
    """They are written in another way, from any alignment of rows."""
    for dtype, keys in ((torch.float32, 1501), (torch.float64, 751), (torch.bfloat16, 3001)):
        table, _, index = inputs(2, 8, 190, keys, 170, dtype, device)
        assert torch.equal(rpe_index(table, index), rpe_index_ref(table, index))


@pytest.mark.parametrize(
    "size", [(2, 3, 5, 7, 4), (1, 1, 1, 1, 1), (2, 1, 0, 3, 4), (1, 2, 4, 0, 3)]
)
def test_references_equal_loops(size):
    b, h, lq, lk, n = size
    table, x, index = inputs(*size)
    picked = torch.zeros(b, h, lq, lk, dtype=torch.float64)
    sums = torch.zeros(b, h, lq, n, dtype=torch.float64)
    for i, j in itertools.product(range(lq), range(lk)):
        picked[:, :, i, j] = table[:, :, i, index[i, j]]
        sums[:, :, i, index[i, j]] += x[:, :, i, j]
    assert torch.equal(rpe_index_ref(table, index), picked)
    torch.testing.assert_close(rpe_index_sum_ref(x, index, n), sums)


def test_expanded_tensors_need_no_copy(device):
    """A bias table is one row for all queries, the gradient of a sum one number for all."""
    index = inputs(1, 1, 6, 8, 5, device=device)[2]
    row = torch.randn(1, 2, 1, 5, device=device)
    expanded = row.expand(3, 2, 6, 5)
    assert torch.equal(rpe_index(expanded, index), rpe_index_ref(expanded.contiguous(), index))
    ones = torch.ones((), device=device).expand(3, 2, 6, 8)
    assert torch.equal(
        rpe_index_sum(ones, index, 5), rpe_index_sum_ref(ones.contiguous(), index, 5)
    )


def test_not_a_number_and_infinity_stay_in_their_bucket(device):
    x = torch.ones(1, 1, 1, 40, device=device)
    x[..., 3], x[..., 20] = torch.nan, torch.inf
    index = (torch.arange(40, dtype=torch.int32, device=device) // 10)[None]
    for dtype in DTYPES:
        sums = rpe_index_sum(x.to(dtype), index, 4).flatten().tolist()
        assert sums[0] != sums[0] and sums[1:] == [10, torch.inf, 10]


def test_half_precision_is_summed_in_float32(device):
    x = torch.ones(1, 1, 1, 4000, device=device)
    index = torch.zeros(1, 4000, dtype=torch.int32, device=device)
    for dtype in (torch.float16, torch.bfloat16):  # bfloat16 alone would not get past 256
        assert rpe_index_sum(x.to(dtype), index, 1).item() == torch.tensor(4000.0).to(dtype)


def test_the_same_bits_from_any_number_of_threads(device):
    _, x, index = inputs(2, 8, 100, 300, 81, torch.float32, device)
    before = torch.get_num_threads()
    sums = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        sums.append(rpe_index_sum(x, index, 81))
    torch.set_num_threads(before)
    assert torch.equal(sums[0], sums[1]) and torch.equal(sums[0], sums[2])


# ---- large ----


@pytest.mark.slow
def test_more_elements_than_32_bits_count(device):
    """2.4e9 elements of 2 bytes: offsets of 32 bits would come round again."""
    if device.type == "cuda" and torch.cuda.get_device_properties(0).total_memory < 2**34:
        pytest.skip("needs 16 GB")
    b, h, (height, width), n = 1, 34, (70, 120), 81
    length = height * width
    index = bucket_ids(get_rpe_config(2.0).rpe_k, height, width, device=device)
    table = torch.randn(b, h, length, n).to(device, torch.bfloat16)
    out = rpe_index(table, index)
    assert out.numel() > 2**31
    for head in (0, h - 1):
        assert torch.equal(out[:, [head]], rpe_index_ref(table[:, [head]], index))
    sums = rpe_index_sum(out, index, n)
    del out
    counts = rpe_index_sum(torch.ones(1, 1, length, length, device=device), index, n)
    torch.testing.assert_close(
        sums[:, [0, h - 1]].float(), table[:, [0, h - 1]].float() * counts, atol=1e-2, rtol=1e-2
    )
