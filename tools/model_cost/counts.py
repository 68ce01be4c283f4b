"""Parameters of a model, and multiply-accumulates of a forward pass, by part.

Multiply-accumulates are those of matrix products and convolutions, as PyTorch's FlopCounterMode
counts them: m n k for the product of (m, k) and (k, n). All else is not counted: additions, the
softmax, norms, activations, and the lookup of an encoding's values by bucket, which multiplies
nothing. What an encoding multiplies is counted: tokens with the table's vectors, and for values
sums of weights with them.
"""

from collections import Counter

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rpe_ops.attention import ATTENTION

from .parts import REST, Part, part_of


def count_parameters(
    model: nn.Module, parts: tuple[Part, ...], trained: bool = False
) -> Counter[str]:
    """Count the parameters by the part that they belong to.

    Args:
        trained: only those that are not frozen.
    """
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or not trained:
            counts[part_of(name, parts)] += parameter.numel()
    return counts


@torch.no_grad()
def count_products(model: nn.Module, parts: tuple[Part, ...], *inputs: object) -> Counter[str]:
    """Count the multiply-accumulates of model(*inputs) by the part whose module computes them.

    Attention is computed by its formula, so that the count is the same whatever backend is chosen
    or there; the counter does not know PyTorch's fused attention on CPUs. On the meta device, where
    tensors have no memory, the pass takes no time.

    Args:
        model: is changed: its attention, and it is frozen and put into evaluation mode.
    """
    # Frozen, because the counter asks for the gradient's function of what modules get. A view of a
    # parameter, such as the decoder's queries, has none if it was made without gradients, although
    # it says that it requires one: the counter ends with an error there.
    model.eval().requires_grad_(False)
    for module in model.modules():
        if getattr(module, "attention", None) in ATTENTION:
            module.attention = "math"
    with FlopCounterMode(display=False) as counter:
        ledger = _Ledger(counter)
        hooks = [
            hook
            for name, module in model.named_modules()
            for hook in ledger.watch(module, part_of(name, parts))
        ]
        try:
            model(*inputs)
        finally:
            for hook in hooks:
                hook.remove()
    ledger.book()
    return ledger.counts


class _Ledger:
    """Books what a counter has counted since the last booking on the part that runs.

    The counter's own names of modules are not used: it does not know those of modules that are
    called by another one than their parent, such as the box head by the decoder.
    """

    def __init__(self, counter: FlopCounterMode):
        self.counts: Counter[str] = Counter()
        self._counter = counter
        self._running = [REST]
        self._booked = 0

    def watch(self, module: nn.Module, part: str) -> tuple:
        """Book what `module` computes on `part`; returns the hooks that do it."""

        def enter(*_: object) -> None:
            self.book()
            self._running.append(part)

        def leave(*_: object) -> None:
            self.book()
            self._running.pop()

        return module.register_forward_pre_hook(enter), module.register_forward_hook(leave)

    def book(self) -> None:
        """Book on the part that runs now."""
        counted = self._counter.get_total_flops() // 2  # a multiplication and an addition each
        if counted > self._booked:
            self.counts[self._running[-1]] += counted - self._booked
            self._booked = counted
