"""A CUDA device for tests that computes on the CPU: finds mixed devices, and counts waits.

Its tensors say that they are on cuda:0 and hold a tensor of the CPU, so that numbers are real and
gradients are computed as ever. Operators raise MixedDevices where a GPU would, and each line of the
project that makes the CPU wait for the device is recorded: copies that block, and operators whose
result's size or value the CPU has to know.

Import this module first in a process of its own: it replaces functions of torch.cuda.
"""

import collections
import contextlib
import ctypes
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ROOT = Path(__file__).resolve().parents[2]
CUDA = torch.device("cuda", 0)
aten = torch.ops.aten

# What has to know a value, or the number of elements that fulfil a condition.
READS_VALUE = {aten._local_scalar_dense.default, aten.item.default, aten.equal.default}
READS_SIZE = {
    aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.bincount.default,
    aten.repeat_interleave.Tensor, aten.unique_dim.default,
}  # fmt: skip
INDEXING = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default,
    aten._unsafe_index.Tensor, aten._unsafe_index_put.default, aten._index_put_impl_.default,
}  # fmt: skip

# What dropout on the CPU consists of besides a product. On a GPU it is one operator.
PARTS_OF_DROPOUT = {aten.empty_like.default, aten.bernoulli_.float, aten.div_.Scalar}


class MixedDevices(RuntimeError):
    """An operator got tensors of the CPU and of the device."""


class Counts:
    """What happened on the device.

    Attributes:
        waits: how often each (reason, line of the project) made the CPU wait.
        calls: how often each operator ran.
        of_attention: operators that scaled_dot_product_attention consists of, as PyTorch's formula;
            it is one operator among the calls.
    """

    def __init__(self):
        self.waits: collections.Counter[tuple[str, str]] = collections.Counter()
        self.calls: collections.Counter[str] = collections.Counter()
        self.of_attention = 0

    def wait(self, reason: str) -> None:
        self.waits[reason, _line_of_project()] += 1

    def clear(self) -> None:
        self.waits.clear()
        self.calls.clear()
        self.of_attention = 0


counts = Counts()


def _line_of_project() -> str:
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and ".venv" not in path.parts and path != Path(__file__):
            return f"{path.relative_to(ROOT)}:{frame.lineno}: {frame.line}"
    return "outside of the project"


class DeviceTensor(Tensor):
    """A tensor on the device; `values` is the tensor of the CPU that it stands for."""

    @staticmethod
    def __new__(cls, values: Tensor):
        tensor = Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(),
            dtype=values.dtype, layout=values.layout, device=CUDA,
        )  # fmt: skip
        tensor.values = values
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:
        return f"DeviceTensor({self.values})"

    def __deepcopy__(self, memo: dict) -> Tensor:
        copied: Tensor = DeviceTensor(self.values.clone())
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def tolist(self) -> Any:
        counts.wait("tolist")
        return self.values.tolist()

    def numpy(self, *_: Any, **__: Any) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def data_ptr(self) -> int:
        return self.values.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class PretendCuda(TorchDispatchMode):
    """The context in which devices called "cuda" are the pretended one."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _values(value: Any) -> Any:
    """Return what stands on the CPU for a tensor, or a device, of an operator's arguments."""
    if isinstance(value, DeviceTensor):
        return value.values
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _run(function: Any, args: tuple, kwargs: dict) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_device = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
    if function is aten._to_copy.default:
        return _to_copy(function, args, kwargs)
    if function is aten.copy_.default:
        return _copy(function, args, kwargs)
    device = kwargs.get("device")
    result_on_device = bool(on_device) if device is None else torch.device(device).type == "cuda"
    if on_device:
        _check_devices(function, args, tensors)
        _count_waits(function, args)
    if not result_on_device and not on_device:
        pinned = kwargs.pop("pin_memory", None)
        result = function(*args, **kwargs)
        if pinned:
            result.pinned = True
        return result
    counts.calls[str(function)] += 1
    plain = {name: _values(value) for name, value in kwargs.items() if name != "pin_memory"}
    result = function(*tree_map(_values, args), **tree_map(_values, plain))
    if kwargs.get("pin_memory"):
        result.pinned = True
    # What an operator changed in place is the same tensor afterwards.
    same = {id(tensor.values): tensor for tensor in on_device}

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor) or not result_on_device:
            return value
        return same.get(id(value)) if id(value) in same else DeviceTensor(value)

    return tree_map(wrap, result)


def _to_copy(function: Any, args: tuple, kwargs: dict) -> Tensor:
    source = args[0]
    was_on_device = isinstance(source, DeviceTensor)
    device = kwargs.get("device")
    to_device = was_on_device if device is None else torch.device(device).type == "cuda"
    if was_on_device != to_device and not kwargs.get("non_blocking"):
        counts.wait("copy to the device" if to_device else "copy to the CPU")
    if was_on_device or to_device:
        counts.calls[str(function)] += 1
    plain = {name: _values(value) for name, value in kwargs.items() if name != "pin_memory"}
    result = function(_values(source), **plain)
    return DeviceTensor(result) if to_device else result


def _copy(function: Any, args: tuple, kwargs: dict) -> Tensor:
    target, source, *rest = args
    to_device, from_device = (isinstance(t, DeviceTensor) for t in (target, source))
    non_blocking = bool(rest and rest[0]) or kwargs.get("non_blocking", False)
    if from_device and not to_device and not (non_blocking and hasattr(target, "pinned")):
        counts.wait("copy to the CPU")
    elif to_device and not from_device and not non_blocking:
        counts.wait("copy to the device")
    if to_device or from_device:
        counts.calls[str(function)] += 1
    function(_values(target), _values(source), *rest, **kwargs)
    return target


def _check_devices(function: Any, args: tuple, tensors: list[Tensor]) -> None:
    """Raise MixedDevices where a GPU would; scalars of the CPU and indices are allowed."""
    if function in INDEXING:
        tensors = [args[0], *(t for t in args[2:3] if isinstance(t, Tensor))]
    sizes = [tuple(t.shape) for t in tensors if t.dim() and not isinstance(t, DeviceTensor)]
    if sizes and any(isinstance(tensor, DeviceTensor) for tensor in tensors):
        raise MixedDevices(f"{function} got tensors of the CPU {sizes} at {_line_of_project()}")


def _count_waits(function: Any, args: tuple) -> None:
    if function in READS_VALUE:
        counts.wait("value")
    elif function in READS_SIZE:
        counts.wait(f"size of the result of {function}")
    elif function in INDEXING:
        for index in args[1]:
            if index is None:
                continue
            if index.dtype in (torch.bool, torch.uint8):
                counts.wait("boolean index")
            elif not isinstance(index, DeviceTensor):
                counts.wait("index from the CPU")


class Event:
    """torch.cuda.Event."""

    def __init__(self, **_: Any):
        pass

    def record(self, stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        counts.wait("event")


class _CountOfAttention(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        counts.of_attention += function not in PARTS_OF_DROPOUT
        return function(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """scaled_dot_product_attention as one operator, and its backward pass as another."""

    @staticmethod
    def forward(ctx, mask, dropout_p, is_causal, scale, q, k, v, bias):
        values = [None if x is None else x.values.detach() for x in (q, k, v, bias)]
        for x, given in zip(values, ctx.needs_input_grad[4:], strict=True):
            if x is not None:
                x.requires_grad_(given)
        with torch.enable_grad(), _CountOfAttention():
            added = values[3] if mask is None else mask.values
            out = aten._scaled_dot_product_attention_math(
                *values[:3], added, dropout_p, is_causal, None, scale=scale
            )[0]
        ctx.inner = out, [x for x in values if x is not None and x.requires_grad]
        counts.calls["attention"] += 1
        return DeviceTensor(out.detach())

    @staticmethod
    def backward(ctx, grad):
        out, inputs = ctx.inner
        with _CountOfAttention():
            grads = iter(torch.autograd.grad(out, inputs, grad.values))
        counts.calls["attention backward"] += 1
        needed = ctx.needs_input_grad[4:]
        return *[None] * 4, *(DeviceTensor(next(grads)) if need else None for need in needed)


def _attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
    bias = attn_mask if attn_mask is not None and attn_mask.is_floating_point() else None
    mask = None if bias is not None else attn_mask
    return _Attention.apply(mask, dropout_p, is_causal, scale, q, k, v, bias)


@contextlib.contextmanager
def pretend_cuda() -> Iterator[Counts]:
    """Let this process have one GPU, for good, and count in the context what happens on it."""
    cuda = torch.cuda
    cuda._lazy_init = lambda: None
    cuda.is_available = lambda: True
    cuda.device_count = lambda: 1
    cuda.current_device = lambda: 0
    cuda.set_device = lambda _: None
    cuda.get_device_capability = lambda *_: (9, 0)
    cuda.get_device_name = lambda *_: "pretended"
    cuda.is_bf16_supported = lambda *_, **__: True
    cuda.get_rng_state = lambda *_: torch.get_rng_state()
    cuda.set_rng_state = lambda state, *_: torch.set_rng_state(state)
    cuda.Event = Event
    torch.nn.functional.scaled_dot_product_attention = _attention
    torch._C._ensureCUDADeviceGuardSet()
    ctypes.CDLL(None).pretend_devices(127)  # of driver.cpp; autograd asks for 64
    # torch.tensor(..., device="cuda") makes the tensor on the CPU and copies it, as on a real GPU.
    torch._C._set_only_lift_cpu_tensors(True)
    # Module.to() would set `.data` of a tensor of one device to a tensor of another.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.autograd.set_multithreading_enabled(False)  # the backward pass is in this context, too
    with PretendCuda():
        yield counts
