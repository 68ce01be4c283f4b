"""The ways to compute attention with relative position encoding (RPE), one a file.

Each backend is a module with two functions of an `AttentionCall`:

    why_not(call) -> str | None   why it does not support the call; None if it does
    attend(call) -> (out, weights)   (B, H, Lq, D), and (B, H, Lq, Lk) or None
"""

from torch import Tensor

from . import choice, cpu, fused, math, sdpa, trial
from .call import AttentionCall

ATTENTION = ("auto", "sdpa", "fused", "math")  # choices of --attention


def candidates(attention: str, call: AttentionCall) -> tuple:
    """Return the backends to try, the preferred one first; `attention` is one of ATTENTION."""
    if attention == "auto" and call.q.device.type == "cuda":
        return (fused, sdpa, math) if choice.fused_wins(call) else (sdpa, math)
    named = {"sdpa": (sdpa, math), "fused": (fused,), "math": (math,), "auto": (cpu, sdpa, math)}
    return named[attention]


def attend(call: AttentionCall, attention: str) -> tuple[Tensor, Tensor | None]:
    """Compute attention with the first of the candidates that supports the call.

    Returns:
        Output (B, H, Lq, D) and, with call.need_weights, weights after dropout (B, H, Lq, Lk).

    Raises:
        ValueError: no candidate supports it, which only happens with "fused".
    """
    for backend in candidates(attention, call):
        reason = backend.why_not(call)
        if backend is fused:
            reason = trial.why_not(call, reason, say=attention == "auto")
        if reason is None:
            return backend.attend(call)
    raise ValueError(f"{attention} attention is not supported here: {reason}")
