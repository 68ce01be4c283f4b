"""The decision whether a process uses the fused kernels, by one trial before their first use.

Triton compiles at the first call, for which it needs a C compiler and Python's headers, and a
kernel may not compile for a GPU, not fit it, or give wrong numbers there. So each kind of call is
tried once in a process, on two small maps, forward and backward, against the formula in float64 on
the CPU. After a failure the device's attention does without the fused kernels until the process
ends. (A kernel that reads or writes beyond its memory is not survived: after that, CUDA refuses
every call of the process.)

In a distributed run each process decides for itself. They need not agree: the backends give the
same numbers up to rounding, none of them communicates, and the weights stay the same in all
processes because these share their gradients, however those were computed.
"""

import warnings
from dataclasses import replace
from functools import cache
from threading import Lock

import torch

from rpe_ops.irpe import METHOD, RPEConfig, RPESettings

from . import fused
from .call import AttentionCall
from .fused_check import Kind, Term, run

# The interpreter on the CPU, which is for tests, is not tried: it would take seconds each time.
DEVICES = ("cuda",)
NOT_TRIED = "the kernels were not tried before this graph was made"

_failures: dict[torch.device, str] = {}
_passed: set[Kind] = set()
_passed_on: set[tuple[torch.device, torch.dtype]] = set()  # what can be looked up in a graph
_said: set[torch.device] = set()
_lock = Lock()


def why_not(call: AttentionCall, reason: str | None, say: bool) -> str | None:
    """Return why a call is not computed by the fused kernels; None if it is.

    Args:
        reason: why they do not support it (`fused.why_not`), or None.
        say: warn, once for a device, when it cannot run them or they failed there. A call that
            they do not support is not worth a warning.
    """
    device, dtype = call.q.device, call.q.dtype
    if device.type not in DEVICES:
        return reason
    traced = torch.compiler.is_compiling()
    if reason is not None:
        unusable = None if traced or device in _said else fused.why_not_device(device)
    elif traced or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        # A graph would contain the trial. A call that can do without the kernels then takes them
        # only if some have passed before.
        return NOT_TRIED if say and (device, dtype) not in _passed_on else None
    else:
        reason = unusable = failure(_kind(call))
    if say and unusable is not None and device not in _said:
        _said.add(device)
        warnings.warn(
            f"fused attention is not used on {describe(device)}, but PyTorch's (sdpa): {unusable}",
            RuntimeWarning,
            stacklevel=3,
        )
    return reason


def failure(kind: Kind) -> str | None:
    """Return what failed in the trial on the kind's device; None if the kind may be used.

    The trial takes place at the first call for a kind, unless one has failed on the device before.
    """
    with _lock:
        if kind.device not in _failures and kind not in _passed:
            problem = run(kind).problem
            if problem is None:
                _passed.add(kind)
                _passed_on.add((kind.device, kind.dtype))
            else:
                _failures[kind.device] = f"{problem} ({kind})"
                _passed_on.difference_update({(kind.device, dtype) for dtype in fused.DTYPES})
        return _failures.get(kind.device)


def why_not_layer(
    config: RPEConfig | None,
    head_dim: int,
    device: torch.device,
    dtype: torch.dtype,
    dropout: bool,
) -> str | None:
    """Return why the kernels cannot compute a layer, or what failed in its trial; None if they can.

    Args:
        dtype, dropout: see `kinds`; without dropout the layer is tried in any case.
    """
    reason = fused.why_not_device(device) or fused.why_not_config(config, head_dim)
    if reason is not None or device.type not in DEVICES:
        return reason
    for kind in kinds(config, head_dim, device, dtype)[: 1 + dropout]:
        reason = failure(kind)
        if reason is not None:
            return f"its trial on {describe(device)} failed: {reason}"
    return None


def kinds(
    config: RPEConfig | None, head_dim: int, device: torch.device, dtype: torch.dtype
) -> tuple[Kind, Kind]:
    """Return the kinds of calls of a layer, without and with dropout; its parameters are float32.

    Args:
        dtype: of queries, keys and values.
    """

    def term(settings: RPESettings | None) -> Term | None:
        if settings is None:
            return None
        return Term(_plain(settings), torch.float32 if settings.mode == "bias" else dtype)

    config = config or RPEConfig(None, None, None)
    term_q, term_k, term_v = map(term, (config.rpe_q, config.rpe_k, config.rpe_v))
    kind = Kind(device, dtype, head_dim, term_q, term_k, term_v, dropout=False)
    return kind, kind._replace(dropout=True)


def describe(device: torch.device) -> str:
    """Return the device's name and the versions of PyTorch and Triton."""
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return f"{device} ({gpu}torch {torch.__version__}, triton {fused.triton_version()})"


def _kind(call: AttentionCall) -> Kind:
    def term(rpe: torch.nn.Module | None) -> Term | None:
        settings = fused.settings_of(rpe)
        if settings is None:
            return None
        # A bias table does not have the dtype that autocast gives to products.
        tables = rpe.parameters() if rpe is not None and settings.mode == "bias" else ()
        return Term(_plain(settings), next((t.dtype for t in tables), call.q.dtype))

    q, maps = call.q, call.maps
    assert maps is not None  # `fused.why_not` refuses calls without RPE
    return Kind(
        q.device, q.dtype, q.shape[-1], term(call.rpe_q), term(call.rpe_k), term(call.rpe_v),
        dropout=call.dropout_p > 0,
        extra=maps.queries.skip + maps.keys.skip > 0,
        two_maps=maps.queries[:2] != maps.keys[:2],
    )  # fmt: skip


@cache  # new settings compute their buckets, which is too slow for each call
def _plain(settings: RPESettings) -> RPESettings:
    """Return settings without what does not change kernels; `cross` comes to them as `product`."""
    method = settings.method if settings.is_undirected else METHOD.PRODUCT
    return replace(settings, method=method, shared_head=True, skip=0)
