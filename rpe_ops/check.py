"""Compare every kernel with the operators in plain PyTorch: `python -m rpe_ops --check`."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .functions import DTYPES, rpe_index, rpe_index_sum
from .library import LIBRARY, serves_gpu
from .reference import rpe_index_ref, rpe_index_sum_ref
from .weighted_sum import rpe_weighted_sum

BATCH, HEADS, QUERIES, BUCKETS, HEAD_DIM = 2, 3, 40, 81, 32
# Kernels load several keys at once if the number of keys can be divided by 8, 4 or 2.
KEYS = (1056, 850, 77)
# Largest difference, as a share of the largest value. A lookup copies, so it must be exact.
TOLERANCE = {
    torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 4e-2
}  # fmt: skip
# Some environments switch TensorFloat-32 on, which rounds what enters a matrix product.
TF32_TOLERANCE = 2e-3


class Inputs(NamedTuple):
    """Tensors of all checks.

    Attributes:
        table: (B, H, Lq, N), looked up by `rpe_index`.
        x: (B, H, Lq, Lk), summed by `rpe_index_sum`; weights of `rpe_weighted_sum`.
        ids: (Lq, Lk) int32.
        values: (1, N, D), the table of `rpe_weighted_sum`.
        grad: (B, H, Lq, D), gradient of its result.
    """

    table: Tensor
    x: Tensor
    ids: Tensor
    values: Tensor
    grad: Tensor


class Operators(NamedTuple):
    """The functions that are checked, or those they are compared with."""

    lookup: Callable[[Tensor, Tensor], Tensor]
    index_sum: Callable[[Tensor, Tensor, int], Tensor]
    weighted_sum: Callable[[Tensor, Tensor, Tensor], Tensor]


class Result(NamedTuple):
    """What the check of one operator and dtype found on one device."""

    where: str
    operator: str
    dtype: torch.dtype
    difference: float | None  # None after an error
    tolerance: float
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.difference is not None and self.difference <= self.tolerance

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        found = self.error or f"difference {self.difference:.1e}"
        said = "ok" if self.ok else "FAILED"
        return f"{self.where:14} {self.operator:29} {name:9} {found}  {said}"


def _weighted_sum_ref(x: Tensor, index: Tensor, table: Tensor) -> Tensor:
    return rpe_index_sum_ref(x, index, table.shape[1]) @ table


KERNELS = Operators(rpe_index, rpe_index_sum, rpe_weighted_sum)
REFERENCES = Operators(rpe_index_ref, rpe_index_sum_ref, _weighted_sum_ref)


def check_all() -> Iterator[Result]:
    """Yield the results of all kernels of the CPU and of every CUDA GPU."""
    for kernels in _cpu_kernels():
        where = "cpu"
        if LIBRARY.path is not None:
            torch.ops.rpe_ops.use_cpu_kernels(kernels)
            where = f"cpu:{kernels}"
        yield from check_device(torch.device("cpu"), where)
    if LIBRARY.path is not None:
        torch.ops.rpe_ops.use_cpu_kernels("auto")
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        with torch.cuda.device(device):
            yield from check_device(device, str(device))
            if serves_gpu(number):  # Triton's kernels are not in use, and checked all the same
                yield from _check_triton(device)


def _check_triton(device: torch.device) -> Iterator[Result]:
    from . import triton_lookup

    def weighted_sum(x: Tensor, index: Tensor, table: Tensor) -> Tensor:
        return triton_lookup.bucket_sum(x, index, table.shape[1]) @ table

    if triton_lookup.why_not_device(device) is None:
        operators = Operators(triton_lookup.lookup, triton_lookup.bucket_sum, weighted_sum)
        yield from check_device(device, f"{device}:triton", operators)


def check_device(
    device: torch.device, where: str, operators: Operators | None = None
) -> Iterator[Result]:
    """Yield a result for each operator and dtype.

    Args:
        where: the device's name in the results.
        operators: what is checked; None for what is in use.
    """
    operators = operators or KERNELS
    for dtype in DTYPES:
        for operator, compute in OPERATORS.items():
            tolerance = 0.0 if operator == "rpe_index" else TOLERANCE[dtype]
            try:
                difference = _largest(
                    _difference(compute, operators, keys, device, dtype) for keys in KEYS
                )
            except Exception as error:
                text = next(iter(str(error).strip().splitlines()), "")
                said = f"{type(error).__name__}: {text}"
                yield Result(where, operator, dtype, None, tolerance, said)
            else:
                yield Result(where, operator, dtype, difference, tolerance)


def _cpu_kernels() -> list[str]:
    if LIBRARY.path is None:
        return ["pytorch"]
    return torch.ops.rpe_ops.all_cpu_kernels()


def _draw(keys: int, dtype: torch.dtype) -> Inputs:
    generator = torch.Generator().manual_seed(keys)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    index = torch.randint(BUCKETS, (QUERIES, keys), generator=generator, dtype=torch.int32)
    index[::2] = index[::2].sort(dim=1).values  # runs, as neighbours in a map have them
    rows = (BATCH, HEADS, QUERIES)
    return Inputs(
        draw(*rows, BUCKETS), draw(*rows, keys), index, draw(1, BUCKETS, HEAD_DIM),
        draw(*rows, HEAD_DIM),
    )  # fmt: skip


def _difference(
    compute: Callable[[Operators, Inputs], list[Tensor]],
    operators: Operators,
    keys: int,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """Return the largest difference from the reference, which computes in float64 on the CPU."""
    inputs = _draw(keys, dtype)
    wide = Inputs(*(x.double() if x.is_floating_point() else x for x in inputs))
    ours = compute(operators, Inputs(*(x.to(device) for x in inputs)))
    pairs = zip(ours, compute(REFERENCES, wide), strict=True)
    return _largest(((x.double().cpu() - y).abs().max() / y.abs().max()).item() for x, y in pairs)


def _largest(numbers: Iterable[float]) -> float:
    """Return the largest number, NaN if there is one."""
    return torch.tensor(list(numbers), dtype=torch.float64).max().item()


def _index(ops: Operators, t: Inputs) -> list[Tensor]:
    return [ops.lookup(t.table, t.ids)]


def _index_gradient(ops: Operators, t: Inputs) -> list[Tensor]:
    table = t.table.requires_grad_()
    return list(torch.autograd.grad(ops.lookup(table, t.ids), table, t.x))


def _sum(ops: Operators, t: Inputs) -> list[Tensor]:
    return [ops.index_sum(t.x, t.ids, BUCKETS)]


def _sum_gradient(ops: Operators, t: Inputs) -> list[Tensor]:
    x = t.x.requires_grad_()
    return list(torch.autograd.grad(ops.index_sum(x, t.ids, BUCKETS), x, t.table))


def _weighted_sum(ops: Operators, t: Inputs) -> list[Tensor]:
    return [ops.weighted_sum(t.x, t.ids, t.values)]


def _weighted_sum_gradients(ops: Operators, t: Inputs) -> list[Tensor]:
    leaves = [t.x.requires_grad_(), t.values.requires_grad_()]
    out = ops.weighted_sum(leaves[0], t.ids, leaves[1])
    return list(torch.autograd.grad(out, leaves, t.grad))


OPERATORS = {
    "rpe_index": _index,
    "gradient of rpe_index": _index_gradient,
    "rpe_index_sum": _sum,
    "gradient of rpe_index_sum": _sum_gradient,
    "rpe_weighted_sum": _weighted_sum,
    "gradients of rpe_weighted_sum": _weighted_sum_gradients,
}
