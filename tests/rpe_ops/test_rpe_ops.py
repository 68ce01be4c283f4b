"""The two operators: against their references, loops and each other; gradients; bad input."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from models.rpe_attention.irpe import bucket_ids, get_rpe_config
from rpe_ops import (
    check_index,
    rpe_index,
    rpe_index_ref,
    rpe_index_sum,
    rpe_index_sum_ref,
    rpe_weighted_sum,
)
from rpe_ops.library import LIBRARY

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 4e-2}
LENGTHS = [0, 1, 7, 850]
BUCKETS = [1, 9, 49, 169, 170]

needs_library = pytest.mark.skipif(LIBRARY.path is None, reason="; ".join(LIBRARY.problems))


def all_kernels() -> list[str]:
    """cpu:avx512, cpu:portable, cuda, cpu:pytorch: whatever can run here."""
    kernels = []
    if LIBRARY.path is not None:
        torch.ops.rpe_ops.use_cpu_kernels("auto")
        kernels += sorted({f"cpu:{torch.ops.rpe_ops.cpu_kernels()}", "cpu:portable"})
    else:
        kernels.append("cpu:pytorch")
    if torch.cuda.is_available():
        kernels.append("cuda")
    return kernels


@pytest.fixture(params=all_kernels())
def device(request):
    """The device of a set of kernels, which are in use meanwhile."""
    device_type, _, name = request.param.partition(":")
    if LIBRARY.path is not None:
        torch.ops.rpe_ops.use_cpu_kernels(name or "auto")
        yield torch.device(device_type)
        torch.ops.rpe_ops.use_cpu_kernels("auto")
    else:
        yield torch.device(device_type)


def inputs(b, h, lq, lk, n, dtype=torch.float64, device="cpu"):
    table = torch.randn(b, h, lq, n).to(device, dtype)
    x = torch.randn(b, h, lq, lk).to(device, dtype)
    # Half of the rows random, half of them runs, as neighbours in a map have them.
    index = torch.randint(n, (lq, lk), dtype=torch.int32)
    index[::2] = index[::2].sort(dim=1).values
    return table, x, index.to(device)


def strided(t: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same values in other layouts."""
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


# ---- gradients and PyTorch's other machinery ----


def test_each_is_the_adjoint_of_the_other(device):
    table, x, index = inputs(2, 3, 5, 7, 4, device=device)
    left = (rpe_index(table, index) * x).sum()
    right = (table * rpe_index_sum(x, index, 4)).sum()
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("index_dtype", [torch.int64, torch.int32])
def test_gradients(device, index_dtype):
    table, x, index = inputs(1, 2, 3, 5, 4, device=device)
    index = index.to(index_dtype)
    weights = torch.randn(1, 4, 2, dtype=torch.float64, device=device)
    for tensor in (table, x, weights):
        tensor.requires_grad_()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda t: rpe_index(t, index), table)
        assert check(lambda s: rpe_index_sum(s, index, 4), x)
        assert check(lambda s, w: rpe_weighted_sum(s, index, w), (x, weights))
        assert check(lambda s, w: rpe_weighted_sum(s, index, w.expand(2, 4, 2)), (x, weights))


@needs_library
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(2, 3, 5, 7, 4), (1, 2, 4, 0, 3)])
def test_operators_keep_the_rules_of_pytorch(device, dtype, size):
    table, x, index = inputs(*size, dtype=dtype, device=device)
    ops = torch.ops.rpe_ops
    for requires_grad in (False, True):
        tensors = [t.detach().clone().requires_grad_(requires_grad) for t in (table, x)]
        torch.library.opcheck(ops.rpe_index.default, (tensors[0], index))
        torch.library.opcheck(ops.rpe_index_sum.default, (tensors[1], index, size[-1]))


def test_compiles_into_one_graph(device):
    table, x, index = inputs(2, 3, 6, 7, 4, torch.float32, device)
    weights = torch.randn(1, 4, 5, device=device)

    def function(table, x, weights):
        looked_up = rpe_index(table, index) * x
        return rpe_index_sum(looked_up, index, 4).sum() + rpe_weighted_sum(x, index, weights).sum()

    leaves = [t.requires_grad_() for t in (table, x, weights)]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    wanted, got = function(*leaves), compiled(*leaves)
    torch.testing.assert_close(got, wanted)
    for a, b in zip(
        torch.autograd.grad(got, leaves), torch.autograd.grad(wanted, leaves), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_under_autocast_the_dtypes_are_those_of_the_matrix_products(device):
    table, x, index = inputs(2, 3, 6, 6, 4, torch.float32, device)
    weights = torch.randn(1, 4, 5, device=device, requires_grad=True)
    x.requires_grad_()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert rpe_index(table @ torch.eye(4, device=device), index).dtype == torch.bfloat16
        out = rpe_weighted_sum(x, index, weights)
    assert out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out.sum(), (x, weights))
    assert [g.dtype for g in grads] == [torch.float32] * 2
    plain = torch.autograd.grad(rpe_weighted_sum(x, index, weights).sum(), (x, weights))
    for a, b in zip(grads, plain, strict=True):
        torch.testing.assert_close(a, b, atol=0.1, rtol=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graphs_and_streams():
    table, x, index = inputs(2, 3, 20, 30, 9, torch.float32, "cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        outside = rpe_index(table, index), rpe_index_sum(x, index, 9)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = rpe_index(table, index), rpe_index_sum(x, index, 9)
    table.add_(1)
    x.mul_(2)
    graph.replay()
    assert torch.equal(captured[0], rpe_index(table, index))
    assert torch.equal(captured[1], rpe_index_sum(x, index, 9))
    assert torch.equal(outside[1] * 2, captured[1])


# ---- the sum over values ----


class LargestTotal(TorchDispatchMode):
    """The largest number of bytes that tensors made meanwhile took up at one time."""

    def __init__(self):
        super().__init__()
        self.storages = {}
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = (storage._weak_ref(), storage.nbytes())
        alive = {k: v for k, v in self.storages.items() if not _expired(v[0])}
        self.storages = alive
        self.largest = max(self.largest, sum(nbytes for _, nbytes in alive.values()))
        return result


def _expired(weak_ref: int) -> bool:
    return torch.UntypedStorage._expired(weak_ref)


def test_weighted_sum_never_holds_two_tensors_of_the_size_of_the_sums(device):
    b, h, length, n, d = 2, 3, 16, 40, 4
    _, x, index = inputs(b, h, length, length, n, torch.float32, device)
    table = torch.randn(1, n, d, device=device, requires_grad=True)
    x.requires_grad_()
    with LargestTotal() as total:
        out = rpe_weighted_sum(x, index, table)
        grads = torch.autograd.grad(out, (x, table), torch.ones_like(out))
    sums = b * h * length * n * 4
    results = 2 * out.nbytes + sum(g.nbytes for g in grads)  # out and its gradient
    assert total.largest <= results + sums + 2 * n * d * 4 * b * h
    assert total.largest >= sums  # the measurement sees them


def test_weighted_sum_can_go_backward_twice(device):
    _, x, index = inputs(1, 2, 5, 6, 4, device=device)
    table = torch.randn(2, 4, 3, dtype=torch.float64, device=device, requires_grad=True)
    out = rpe_weighted_sum(x, index, table).square().sum()
    first = torch.autograd.grad(out, table, retain_graph=True)
    assert torch.equal(torch.autograd.grad(out, table)[0], first[0])


# ---- bad input ----


def test_what_does_not_fit_is_refused(device):
    table, x, index = inputs(2, 3, 5, 7, 4, device=device)
    with pytest.raises(ValueError, match="4 axes"):
        rpe_index(table[0], index)
    with pytest.raises(ValueError, match="floating point"):
        rpe_index(table.int(), index)
    with pytest.raises(ValueError, match="int32 or int64"):
        rpe_index(table, index.float())
    with pytest.raises(ValueError, match="5 queries"):
        rpe_index(table, index[:4])
    with pytest.raises(ValueError, match="last two axes"):
        rpe_index_sum(x, index[:, :3], 4)
    with pytest.raises(ValueError, match="negative"):
        rpe_index_sum(x, index, -1)
    with pytest.raises(ValueError, match="meta"):
        rpe_index(table, index.to("meta"))


@needs_library
def test_operators_called_directly_check_for_themselves():
    table, x, index = inputs(2, 3, 5, 7, 4)
    ops = torch.ops.rpe_ops
    for action in (
        lambda: ops.rpe_index(table[0], index),
        lambda: ops.rpe_index(table, index.long()),
        lambda: ops.rpe_index(table, index[:4]),
        lambda: ops.rpe_index_sum(x, index[:, :3], 4),
        lambda: ops.rpe_index_sum(x, index, -1),
        lambda: ops.use_cpu_kernels("fast"),
    ):
        with pytest.raises(ValueError, match=r"rpe_index|use_cpu_kernels"):
            action()


@pytest.mark.parametrize("wrong", [-1, 4, 2**31 - 1, -(2**31), 2**32, 2**32 + 1])
def test_an_id_out_of_range_is_an_error(device, wrong, monkeypatch):
    if device.type == "cuda":  # a device-side assertion ends the process, unless checked before
        monkeypatch.setattr("rpe_ops.functions.CHECK_EVERY_CALL", True)
    table, x, index = inputs(2, 3, 5, 40, 4, torch.float32, device=device)
    index = index.long()
    index[3, 38] = wrong
    # PyTorch's own operators call it a RuntimeError.
    for action in (lambda: rpe_index(table, index), lambda: rpe_index_sum(x, index, 4)):
        with pytest.raises((IndexError, RuntimeError)):
            action()


def test_check_names_the_place():
    _, _, index = inputs(1, 1, 5, 7, 4)
    check_index(index, 4)
    check_index(index[:0], 0)
    index[3, 2] = 9
    with pytest.raises(IndexError, match=r"index\[3, 2\] is 9, outside \[0, 4\)"):
        check_index(index, 4)


def test_every_call_is_checked_when_asked(monkeypatch):
    table, x, index = inputs(1, 2, 5, 7, 4)
    monkeypatch.setattr("rpe_ops.functions.CHECK_EVERY_CALL", True)
    rpe_index(table, index)
    index[1, 1] = -1
    for action in (lambda: rpe_index(table, index), lambda: rpe_index_sum(x, index, 4)):
        with pytest.raises(IndexError, match=r"index\[1, 1\] is -1"):
            action()


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
