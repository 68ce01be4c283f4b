"""An optimizer's state and schedule from a checkpoint, and the warm-up of its rates."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from util.errors import UserError

# What is taken from a checkpoint; versions of PyTorch differ in what else is there.
GROUP_VALUES = ("lr", "initial_lr", "betas", "eps", "weight_decay")
RATES = ("lr", "initial_lr")
MOMENTS = {"exp_avg", "exp_avg_sq"}


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    checkpoint: dict,
    path: str,
    hint: str = "",
) -> None:
    """Load a checkpoint's "optimizer", to the bit, into one for the parameters of `model`.

    Of AdamW's groups all options are taken, of other optimizers' the rates, and what a new
    optimizer does not have, such as a count of steps.

    Args:
        checkpoint: checked by `training.checkpoint_content.check_training`.
        path: of the checkpoint, as the user named it.
        hint: what may be the cause where it has other parameters, for the message.

    Raises:
        UserError: the checkpoint's optimizer has other parameters.
        ValueError: the moments of a parameter are not of its shape.
    """
    saved = checkpoint["optimizer"]
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    names = [[name_of[p] for p in group["params"]] for group in optimizer.param_groups]
    numbers = _saved_numbers(names, saved["param_groups"], checkpoint["model"], path, hint)
    is_adamw = isinstance(optimizer, torch.optim.AdamW)
    groups = []
    for own, group, params in zip(
        optimizer.state_dict()["param_groups"], saved["param_groups"], numbers, strict=True
    ):
        taken = GROUP_VALUES if is_adamw else (*RATES, *(group.keys() - own.keys()))
        # How the optimizer computes (fused, ...) is decided by this run.
        groups.append({**own, **{name: group[name] for name in taken}, "params": params})
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    if is_adamw:
        _copy_moments(optimizer, names)


def load_scheduler(lr_scheduler: LRScheduler, checkpoint: dict, names: tuple[str, ...]) -> None:
    """Load the entries `names` of a checkpoint's "lr_scheduler", those that it has."""
    saved = checkpoint["lr_scheduler"]
    loaded = {name: saved[name] for name in names if name in saved}
    lr_scheduler.load_state_dict({**lr_scheduler.state_dict(), **loaded})


class WarmUp:
    """Scales the learning rates of an optimizer's first steps: step n of N has n / N of them.

    AdamW's averages are of few batches then, and its steps too large for what they say.

    Only while a step is made. In between, groups have the rates of the schedule, which checkpoints
    keep. How many steps were made is known from the optimizer's state, so that a resumed run goes
    on to the bit.

    Args:
        steps: N; 0 for none.
    """

    def __init__(self, optimizer: torch.optim.AdamW, steps: int):
        self._steps = steps
        self._done: int | None = None  # before the first step of this process
        self._rates: list[float] = []
        if steps:
            optimizer.register_step_pre_hook(self._scale)
            optimizer.register_step_post_hook(self._restore)

    def _scale(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._done is None:  # on a GPU reading waits for it, so it is done once
            counts = (state["step"] for state in optimizer.state.values() if "step" in state)
            self._done = max((int(count) for count in counts), default=0)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        if self._done < self._steps:
            # A GradScaler lets AdamW skip a step whose gradients overflow, which does not count.
            # Reading that waits for a GPU, hence only here.
            self._done += not getattr(optimizer, "found_inf", None)
            for group in optimizer.param_groups:
                group["lr"] *= self._done / self._steps

    def _restore(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate


def _saved_numbers(
    names: list[list[str]],
    saved_groups: list[dict],
    weights: dict[str, Tensor],
    path: str,
    hint: str,
) -> list[list[int]]:
    """Return the numbers that the checkpoint's optimizer gives the parameters of each group.

    An optimizer numbers parameters in the order in which the model's modules were registered. Code
    that registers them in another order, such as the published one, writes its weights in that
    order, too, so that the names in "model" tell which number is whose.
    """
    if [len(group) for group in names] != [len(group["params"]) for group in saved_groups]:
        raise UserError(f"--resume {path}: its optimizer trained other parameters{hint}")
    numbers = []
    for group, saved in zip(names, saved_groups, strict=True):
        trained = set(group)
        in_saved_order = [name for name in weights if name in trained]
        number_of = dict(zip(in_saved_order, saved["params"], strict=True))
        numbers.append([number_of[name] for name in group])
    return numbers


def _copy_moments(optimizer: torch.optim.Optimizer, names: list[list[str]]) -> None:
    """Copy the moments into tensors that lie in memory as their parameters do.

    The fused optimizer does not look at shapes or strides: with a tensor of another shape it would
    write beyond its end.
    """
    for group, own_names in zip(optimizer.param_groups, names, strict=True):
        for parameter, name in zip(group["params"], own_names, strict=True):
            state = optimizer.state.get(parameter, {})
            for moment in MOMENTS & state.keys():
                if state[moment].shape != parameter.shape:
                    raise ValueError(
                        f"{moment} of {name} is {tuple(state[moment].shape)}, "
                        f"the parameter {tuple(parameter.shape)}"
                    )
                state[moment] = torch.empty_like(parameter).copy_(state[moment])
