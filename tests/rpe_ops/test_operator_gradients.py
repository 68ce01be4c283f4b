"""The operators under autograd, torch.compile, autocast and CUDA graphs; the sum over values."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from rpe_ops import rpe_index, rpe_index_sum, rpe_weighted_sum
from tests.rpe_ops.operands import DTYPES, inputs, needs_library


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


class LargestTotal(TorchDispatchMode):
    """Measures the peak of the bytes that tensors take up that are made meanwhile."""

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
