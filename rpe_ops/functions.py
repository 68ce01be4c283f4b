"""Look up values by bucket, and sum values into buckets.

    rpe_index      Y[b, h, i, j] = table[b, h, i, index[i, j]]
    rpe_index_sum  S[b, h, i, n] = sum of x[b, h, i, j] over the j with index[i, j] == n

Both are linear in their first argument and each is the backward of the other, so both are
differentiable any number of times. Neither builds a tensor larger than (B, H, Lq, Lk), and both are
bitwise reproducible. They call the compiled library if it has kernels for the tensor's device, else
on a GPU Triton's kernels where these work, else PyTorch's own operators. RPE_OPS_CHECK=1 checks the
ids before every call, for debugging: the kernels check them too, but on a GPU the library's end
with a device-side assertion, and Triton's make NaN.
"""

import os

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .library import LIBRARY, serves_gpu, warn_once
from .reference import rpe_index_ref, rpe_index_sum_ref

CHECK_EVERY_CALL = os.environ.get("RPE_OPS_CHECK", "") == "1"
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def rpe_index(table: Tensor, index: Tensor) -> Tensor:
    """Look up, for each query and key, the query's table entry of their bucket.

    Args:
        table: (B, H, Lq, N), float32, float64, float16 or bfloat16, any strides: N buckets of
            each query.
        index: (Lq, Lk), int32 (or int64, which costs a copy), bucket ids in [0, N).

    Returns:
        (B, H, Lq, Lk), contiguous, dtype and device of `table`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
        IndexError: an id is outside [0, N) (on a GPU only with RPE_OPS_CHECK=1).
    """
    _check("rpe_index", table, index)
    if index.shape[0] != table.shape[2]:
        raise ValueError(
            f"rpe_index: index has {index.shape[0]} rows, table has {table.shape[2]} queries"
        )
    if CHECK_EVERY_CALL:
        check_index(index, table.shape[3])
    kernels = _kernels_for(table)
    if kernels == "library":
        return torch.ops.rpe_ops.rpe_index(table, _int32(index))
    if kernels == "triton":
        return torch.ops.rpe_ops_triton.rpe_index(table, _int32(index))
    return rpe_index_ref(table, index)


def rpe_index_sum(x: Tensor, index: Tensor, num_buckets: int) -> Tensor:
    """Sum, for each query, the values of all keys in the same bucket.

    Args:
        x: (B, H, Lq, Lk), float32, float64, float16 or bfloat16.
        index: (Lq, Lk), int32 (or int64, which costs a copy), bucket ids in [0, num_buckets).
        num_buckets: N.

    Returns:
        (B, H, Lq, N), contiguous, dtype and device of `x`; zero where a bucket has no key.
        float16 and bfloat16 are summed in float32.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
        IndexError: an id is outside [0, num_buckets) (on a GPU only with RPE_OPS_CHECK=1).
    """
    _check("rpe_index_sum", x, index)
    if index.shape != x.shape[2:]:
        raise ValueError(
            f"rpe_index_sum: index is {tuple(index.shape)}, "
            f"the last two axes of x are {tuple(x.shape[2:])}"
        )
    if num_buckets < 0:
        raise ValueError(f"rpe_index_sum: num_buckets must not be negative, is {num_buckets}")
    if CHECK_EVERY_CALL:
        check_index(index, num_buckets)
    kernels = _kernels_for(x)
    if kernels == "library":
        return torch.ops.rpe_ops.rpe_index_sum(x, _int32(index), num_buckets)
    if kernels == "triton":
        return torch.ops.rpe_ops_triton.rpe_index_sum(x, _int32(index), num_buckets)
    return rpe_index_sum_ref(x, index, num_buckets)


def check_index(index: Tensor, num_buckets: int) -> None:
    """Raise an IndexError that names the position of an id outside [0, num_buckets).

    This waits for the device. An index that is built once needs to be checked once.
    """
    if index.numel() == 0 or index.device.type == "meta":  # the meta device has no values
        return
    smallest, largest = (int(bound) for bound in index.aminmax())
    if smallest < 0 or largest >= num_buckets:
        row, column = ((index < 0) | (index >= num_buckets)).nonzero()[0].tolist()
        raise IndexError(
            f"index[{row}, {column}] is {int(index[row, column])}, outside [0, {num_buckets})"
        )


def _check(name: str, tensor: Tensor, index: Tensor) -> None:
    if tensor.dim() != 4 or tensor.dtype not in DTYPES:
        raise ValueError(
            f"{name}: the first argument must be floating point with 4 axes, "
            f"is {tensor.dtype} with {tensor.dim()}"
        )
    if index.dim() != 2 or index.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"{name}: index must be an int32 or int64 matrix, "
            f"is {index.dtype} with {index.dim()} axes"
        )
    if index.device != tensor.device:
        raise ValueError(
            f"{name}: index is on {index.device}, the first argument on {tensor.device}"
        )


def is_exporting() -> bool:
    """Return whether torch.export is tracing, by itself or for torch.onnx.export.

    Sizes are symbols then, nothing may be cached from one call to the next, and the graph may only
    contain standard operators.
    """
    # Not torch.compiler.is_exporting(), which in torch 2.7 to 2.11 is true in all of torch.compile
    # (https://github.com/pytorch/pytorch/issues/176347). Torch 2.6 has the other flag alone, which
    # compiling does not set.
    flag = getattr(torch.compiler, "_is_exporting_flag", None)
    exporting = torch.compiler._is_compiling_flag if flag is None else flag
    return exporting or torch.onnx.is_in_onnx_export()


def is_transformed() -> bool:
    """Return whether torch.func (grad, vmap, jvp, ...) or forward-mode differentiation is at work.

    Only PyTorch's own operators have rules for them.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _kernels_for(tensor: Tensor) -> str:
    """Return what computes the operators of a tensor: library, triton, or pytorch."""
    if is_exporting() or is_transformed() or tensor.device.type == "meta":
        return "pytorch"
    device = tensor.device
    reason = None
    if device.type == "cuda":
        if serves_gpu(device.index):
            return "library"
        reason = why_not_triton(device.index, tensor.dtype)
        if reason is None:
            return "triton"
    elif device.type in LIBRARY.devices:
        return "library"
    if not torch.compiler.is_compiling():
        warn_once(device, reason)
    return "pytorch"


@torch.compiler.assume_constant_result  # torch.compile calls this, and does not trace it
def why_not_triton(index: int, dtype: torch.dtype) -> str | None:
    """Return why Triton's kernels are not used on CUDA device number `index`; None if they are."""
    from . import triton_lookup  # imports Triton, which nobody else needs

    return triton_lookup.why_not(torch.device("cuda", index), dtype)


def _int32(index: Tensor) -> Tensor:
    """Cast ids to int32; one that does not fit is clamped, as it must not wrap to a valid id."""
    if index.dtype == torch.int64:
        index = index.clamp(-1, torch.iinfo(torch.int32).max).to(torch.int32)
    return index


# ---- the kernels' shapes for torch.compile, and gradients for autograd ----


def _register() -> None:
    ops = torch.ops.rpe_ops

    @torch.library.register_fake("rpe_ops::rpe_index")
    def _(table, index):
        return table.new_empty(*table.shape[:3], index.shape[1])

    @torch.library.register_fake("rpe_ops::rpe_index_sum")
    def _(x, index, num_buckets):
        return x.new_empty(*x.shape[:3], num_buckets)

    def index_context(ctx, inputs, output):
        table, index = inputs
        ctx.save_for_backward(index)
        ctx.num_buckets = table.shape[3]

    def index_backward(ctx, grad):
        (index,) = ctx.saved_tensors
        return ops.rpe_index_sum(grad, index, ctx.num_buckets), None

    def sum_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])

    def sum_backward(ctx, grad):
        (index,) = ctx.saved_tensors
        return ops.rpe_index(grad, index), None, None

    register = torch.library.register_autograd
    register("rpe_ops::rpe_index", index_backward, setup_context=index_context)
    register("rpe_ops::rpe_index_sum", sum_backward, setup_context=sum_context)


if LIBRARY.path is not None and not LIBRARY.shared:
    _register()
