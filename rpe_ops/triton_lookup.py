"""The two operators by Triton's kernels, for GPUs for which the compiled library has no code.

As custom operators with a registered gradient they work under torch.compile, which does not look
inside. `functions` imports this file at the first call for such a GPU, and not before: Triton need
not be there. Interpreted (TRITON_INTERPRET=1 before Python starts) the operators take tensors of
the CPU, for tests.

Triton compiles at the first call, for which it needs a C compiler and Python's headers, and a
kernel may not compile for a GPU or give wrong numbers there. So each dtype is tried once on each
GPU (`why_not`), against PyTorch's operators. (A kernel that reads or writes beyond its memory is
not survived: after that, CUDA refuses every call of the process.)
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from .reference import rpe_index_ref, rpe_index_sum_ref

try:
    import triton

    from .triton_kernels import lookup_kernel, sum_kernel
except ImportError as error:
    NO_TRITON: str | None = f"Triton cannot be imported ({error})"
else:
    NO_TRITON = None

OLDEST_TRITON = (3, 3)  # before it, kernels do not take strides as tuples
OLDEST_GPU = (8, 0)  # that Triton supports
MAX_PROGRAMS = 2**30  # of a launch
MAX_SIZE = 2**31 - 2**10  # rows and keys are counted in 32 bits, up to a block after the last one


# ---- where they are used ----

BATCH, QUERIES, KEYS, BUCKETS = 2, 5, 84, 81  # of the trial
HEADS = (3, 9)  # with more than 16 rows other kernels are compiled
# Largest difference from float64, as a share of the largest value. A lookup copies.
TOLERANCE = {
    torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2
}  # fmt: skip
NOT_TRIED = "Triton's kernels were not tried before this CUDA graph was captured"

_found: dict[tuple[torch.device, torch.dtype], str | None] = {}  # what a trial has found
_lock = Lock()


def why_not_device(device: torch.device) -> str | None:
    """Return why the kernels cannot run on a device; None if they can."""
    if os.environ.get("RPE_OPS_TRITON", "") == "off":
        return "RPE_OPS_TRITON=off"
    if NO_TRITON is not None:
        return NO_TRITON
    version = triton.__version__
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TRITON:
        return f"Triton {version} is older than {'.'.join(map(str, OLDEST_TRITON))}"
    if device.type != "cuda" or not torch.cuda.is_available():
        return f"Triton's kernels run on CUDA devices, and not on {device}"
    capability = torch.cuda.get_device_capability(device.index)
    if torch.version.hip is None and capability < OLDEST_GPU:
        name = torch.cuda.get_device_name(device.index)
        return f"Triton needs compute capability 8.0, {name} has {'.'.join(map(str, capability))}"
    return None


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why the kernels are not used on a device; None if they are.

    The first call for a dtype tries them, but not while a CUDA graph is captured: it would contain
    the trial. After a failure they are not used until the process ends.
    """
    key = (device, dtype)
    if key in _found:
        return _found[key]
    reason = why_not_device(device)
    if reason is not None:
        return reason
    if torch.cuda.is_current_stream_capturing():
        return NOT_TRIED
    with _lock:
        if key not in _found:
            _found[key] = try_kernels(*key)
        return _found[key]


def try_kernels(device: torch.device, dtype: torch.dtype) -> str | None:
    """Compute both operators on small tensors; return what is wrong with the results, or None.

    A thread of its own has none of the caller's modes: inference, autocast, streams, modes that see
    or change each operator, such as those of torch.compile.
    """
    try:
        with ThreadPoolExecutor(1) as thread:
            wrong = thread.submit(_wrong_results, device, dtype).result()
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        wrong = f"{type(error).__name__}: {lines[0] if lines else ''}"
    name = str(dtype).removeprefix("torch.")
    return wrong and f"the trial of Triton {triton.__version__}'s kernels failed ({name}): {wrong}"


def _wrong_results(device: torch.device, dtype: torch.dtype) -> str | None:
    return next(filter(None, (_wrong_with(heads, device, dtype) for heads in HEADS)), None)


def _wrong_with(heads: int, device: torch.device, dtype: torch.dtype) -> str | None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        numbers = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        return numbers.to(dtype)

    index = torch.randint(BUCKETS, (QUERIES, KEYS), generator=generator, device="cpu").int()
    table, x = draw(BATCH, heads, QUERIES, BUCKETS), draw(BATCH, heads, QUERIES, KEYS)
    x[0, 0, 0, 0] = torch.inf  # stays in its bucket
    picked = lookup(table.to(device), index.to(device)).cpu()
    if not torch.equal(picked, rpe_index_ref(table, index)):
        return "rpe_index differs from PyTorch's operators"
    sums = bucket_sum(x.to(device), index.to(device), BUCKETS).cpu().double()
    wanted = rpe_index_sum_ref(x.double(), index, BUCKETS)
    finite = wanted.isfinite()
    difference = (sums - wanted)[finite].abs().max() / wanted[finite].abs().max()
    # A difference that is not a number is an error, too.
    if torch.equal(sums[~finite], wanted[~finite]) and difference <= TOLERANCE[dtype]:
        return None
    return f"rpe_index_sum differs from PyTorch's operators by {difference:.2g} of the largest sum"


# ---- launches ----

# Of a program, which is one warp: several would wait for each other.
LOOKUP_ROWS, LOOKUP_KEYS = 8, 128
SUM_KEYS = 32
SUM_ROWS = {2: 32, 4: 16, 8: 16}  # at most, by bytes of an element; more do not fit in registers
SUM_BUCKETS = 128  # at most
SMALLEST_BLOCK = 16  # as tl.dot needs


def _sum_blocks(buckets: int) -> tuple[int, int, int]:
    """Return BLOCK_N and REST_N of `sum_kernel`, and in how many parts the buckets are summed.

    81 buckets are 64 and 32, and not 128: the surplus costs as much as the others.
    """
    share = triton.cdiv(buckets, triton.cdiv(buckets, SUM_BUCKETS))
    block = max(triton.next_power_of_2(share + 1) // 2, SMALLEST_BLOCK)
    rest = max(triton.next_power_of_2(share - block), SMALLEST_BLOCK) if share > block else 0
    if rest == block:
        block, rest = 2 * block, 0
    return block, rest, triton.cdiv(buckets, block + rest)


def _vector(element_size: int, *sizes: int) -> int:
    """Return by how many elements, at most 16 bytes of them, all sizes can be divided."""
    vector = 16 // element_size
    while any(size % vector for size in sizes):
        vector //= 2
    return vector


def _launch(
    kernel: Any,
    tensor: Tensor,
    strides: tuple[int, ...],
    index: Tensor,
    out: Tensor,
    buckets: int,
    programs: int,
    **options: int,
) -> None:
    """Launch a kernel for all queries, in parts where a grid would be too large.

    Args:
        programs: for each query.
    """
    batch, heads, queries = out.shape[:3]
    keys = index.shape[1]
    if max(batch * heads, keys) > MAX_SIZE:
        raise ValueError(f"{batch} x {heads} heads or {keys} keys are too many")
    step = max(MAX_PROGRAMS // programs, 1)
    with torch.cuda.device_of(tensor):  # Triton launches on the current device
        for begin in range(0, queries, step):
            kernel[(min(step, queries - begin) * programs,)](
                tensor, strides, index, out, begin, batch * heads, heads, queries,
                keys // options["VECTOR"], buckets, **options,
            )  # fmt: skip


@torch.library.custom_op("rpe_ops_triton::rpe_index", mutates_args=())
def lookup(table: Tensor, index: Tensor) -> Tensor:
    """Compute `rpe_index` of table (B, H, Lq, N) and index (Lq, Lk), int32."""
    rows, buckets = table.shape[0] * table.shape[1], table.shape[3]
    keys = index.shape[1]
    out = table.new_empty(*table.shape[:3], keys)
    if out.numel() == 0:
        return out
    if buckets == 0:
        raise IndexError("rpe_index: the table has no bucket")
    block = min(LOOKUP_ROWS, triton.next_power_of_2(rows))
    _launch(
        lookup_kernel, table, table.stride(), index.contiguous(), out, buckets,
        triton.cdiv(rows, block), VECTOR=_vector(table.element_size(), keys), BLOCK_R=block,
        BLOCK_K=LOOKUP_KEYS, num_warps=1,
    )  # fmt: skip
    return out


@torch.library.custom_op("rpe_ops_triton::rpe_index_sum", mutates_args=())
def bucket_sum(x: Tensor, index: Tensor, num_buckets: int) -> Tensor:
    """Compute `rpe_index_sum` of x (B, H, Lq, Lk) and index (Lq, Lk), int32."""
    out = x.new_empty(*x.shape[:3], num_buckets)
    if x.numel() == 0 or num_buckets == 0:
        return out.zero_()
    rows = x.shape[0] * x.shape[1]
    block = min(max(triton.next_power_of_2(rows), SMALLEST_BLOCK), SUM_ROWS[x.element_size()])
    # The stride of an axis of one element may be anything.
    strides = [stride if size > 1 else 0 for stride, size in zip(x.stride(), x.shape, strict=True)]
    vector = _vector(x.element_size(), index.shape[1], *strides[:3])
    in_vectors = (*(stride // vector for stride in strides[:3]), strides[3])
    block_n, rest_n, parts = _sum_blocks(num_buckets)
    _launch(
        sum_kernel, x, in_vectors, index.contiguous(), out, num_buckets,
        triton.cdiv(rows, block) * parts, VECTOR=vector, BLOCK_R=block, BLOCK_K=SUM_KEYS,
        BLOCK_N=block_n, REST_N=rest_n, num_warps=1, num_stages=1,
    )  # fmt: skip
    return out


# ---- shapes for torch.compile, and gradients for autograd ----


@lookup.register_fake
def _(table, index):
    return table.new_empty(*table.shape[:3], index.shape[1])


@bucket_sum.register_fake
def _(x, index, num_buckets):
    return x.new_empty(*x.shape[:3], num_buckets)


def _lookup_context(ctx, inputs, output):
    table, index = inputs
    ctx.save_for_backward(index)
    ctx.num_buckets = table.shape[3]


def _lookup_backward(ctx, grad):
    (index,) = ctx.saved_tensors
    return torch.ops.rpe_ops_triton.rpe_index_sum(grad, index, ctx.num_buckets), None


def _sum_context(ctx, inputs, output):
    ctx.save_for_backward(inputs[1])


def _sum_backward(ctx, grad):
    (index,) = ctx.saved_tensors
    return torch.ops.rpe_ops_triton.rpe_index(grad, index), None, None


lookup.register_autograd(_lookup_backward, setup_context=_lookup_context)
bucket_sum.register_autograd(_sum_backward, setup_context=_sum_context)
