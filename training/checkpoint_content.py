"""What a checkpoint has to hold: reading its file without running code promises no types."""

from typing import Any

import torch

from training.log import MAX_EPOCHS, PLAIN, LogFormat, check_row
from util.errors import UserError
from util.schema import (
    Check,
    InvalidValue,
    describe,
    dict_of,
    exactly,
    fields,
    integer,
    list_of,
    number,
    optional,
    plain_value,
    tensor,
    text,
)

MAX_TENSORS = 100_000
MAX_PROCESSES = 100_000
MAX_STEPS = 10**12

# ---- the model ----

WEIGHTS = dict_of(text(500), tensor(), MAX_TENSORS)
MODEL = fields(
    {"model": WEIGHTS},
    {
        "ema": optional(WEIGHTS),
        "model_ema": optional(WEIGHTS),
        "ema_updates": integer(),
        "classes": optional(dict_of(integer(), text(1000), MAX_TENSORS)),
    },
)

# ---- where training stopped ----

RATE = number(0, 1e9)


def _steps(value: object, place: str) -> None:
    """PyTorch 1 writes a number, later versions a tensor."""
    if isinstance(value, torch.Tensor):
        tensor(dims=0, finite=True, low=0)(value, place)
    else:
        number(0, MAX_STEPS)(value, place)


ADAMW_STATE = dict_of(
    integer(),
    fields(
        {
            "step": _steps,
            "exp_avg": tensor(finite=True),
            "exp_avg_sq": tensor(finite=True, low=0),
        }
    ),
    MAX_TENSORS,
)
GROUP = {"params": list_of(integer(), high=MAX_TENSORS), "lr": RATE, "initial_lr": RATE}
ADAMW_GROUP = fields(
    {
        **GROUP,
        "betas": list_of(number(0, 0.9999999), 2, 2),
        "eps": number(0, 1),
        "weight_decay": RATE,
    },
    # With any of these set, AdamW would compute something else than in a run from the start.
    {"maximize": exactly(False), "amsgrad": exactly(False)},
)


def _state_value(value: Any, place: str) -> None:
    """Check what optimizers keep: numbers, and tensors of numbers."""
    if isinstance(value, torch.Tensor):
        tensor(finite=True)(value, place)
    elif not isinstance(value, bool | None):
        number()(value, place)


def _any_group(value: Any, place: str) -> None:
    """Check a group of an optimizer, whose further entries are state or options."""
    fields(GROUP)(value, place)
    for name, entry in value.items():
        if isinstance(entry, torch.Tensor):
            tensor(dims=0, finite=True)(entry, f"{place}[{describe(name)}]")
        elif name != "params" and not isinstance(entry, torch.dtype):
            plain_value(1)(entry, f"{place}[{describe(name)}]")


# "state" and a group of "param_groups", of AdamW and of any optimizer.
ADAMW = (ADAMW_STATE, ADAMW_GROUP)
ANY_OPTIMIZER = (
    dict_of(integer(), dict_of(text(100), _state_value, 100), MAX_TENSORS),
    _any_group,
)
SCALER = fields(
    {
        "scale": number(1e-30, 1e38),
        "growth_factor": number(1, 1024),
        "backoff_factor": number(0, 1),
        "growth_interval": integer(1),
        "_growth_tracker": integer(),
    }
)


def _python_state(value: Any, place: str) -> None:
    list_of(lambda *_: None, 3, 3)(value, place)
    version, numbers, gauss = value
    exactly(3)(version, f"{place}[0]")
    list_of(integer(0, 2**32 - 1), 625, 625)(numbers, f"{place}[1]")
    integer(0, 624)(numbers[-1], f"{place}[1][624]")
    optional(number())(gauss, f"{place}[2]")


RANDOM = fields(
    {
        "python": _python_state,
        "numpy": fields(
            {
                "state": fields(
                    {
                        "key": tensor([torch.int64], 1, 624, low=0),
                        "pos": integer(0, 624),
                    }
                ),
                "bit_generator": exactly("MT19937"),
                "has_gauss": integer(0, 1),
                "gauss": number(),
            }
        ),
        "torch": tensor([torch.uint8], 1),
    },
    {"cuda": optional(tensor([torch.uint8], 1))},
)
METRICS = fields(
    {
        "names": list_of(text(200), high=10_000),
        "sums": tensor([torch.float64], 1, finite=True),
        "count": integer(0, MAX_STEPS),
    }
)
TRAINING = {
    "step": integer(0, MAX_STEPS),
    "processes": list_of(fields({"random": RANDOM, "metrics": METRICS}), high=MAX_PROCESSES),
    "pending": optional(dict_of(text(200), plain_value(3), 10_000)),
    "scaler": optional(SCALER),
    "images": integer(1),
    "skipped": list_of(integer()),
}


def check_model(checkpoint: object, path: str, kind: str = "detector") -> None:
    """Check that a checkpoint holds weights, and names of classes if any.

    Args:
        path: of the checkpoint, as the user named it.
        kind: what the message calls the model.

    Raises:
        UserError: it does not.
    """
    try:
        MODEL(checkpoint, "")
    except InvalidValue as unfit:
        raise UserError(f"{path}: not a {kind}'s checkpoint: {unfit}") from unfit


def check_training(
    checkpoint: dict,
    path: str,
    schedule: Check,
    param_groups: int,
    optimizer: tuple[Check, Check] = ADAMW,
    log_format: LogFormat = PLAIN,
) -> None:
    """Check that training can be resumed from a checkpoint.

    Args:
        path: of the checkpoint, as the user named it.
        schedule: what its "lr_scheduler" has to hold.
        param_groups: most parameter groups that its "optimizer" may have.
        optimizer: what the optimizer's state and each of its groups have to hold.
        log_format: of the rows of its "log".

    Raises:
        UserError: something is missing, damaged, or out of range.
    """
    state, group = optimizer
    content = fields({"state": state, "param_groups": list_of(group, high=param_groups)})
    required = {"optimizer": content, "lr_scheduler": schedule, "epoch": integer(-1, MAX_EPOCHS)}

    def row(value: Any, place: str) -> None:
        check_row(value, place, log_format)

    try:
        fields(required, TRAINING | {"log": list_of(row, high=MAX_EPOCHS)})(checkpoint, "")
        _check_consistency(checkpoint)
    except InvalidValue as unfit:
        raise UserError(
            f"{path}: training cannot be resumed from it: {unfit}; its weights can be evaluated "
            "with --eval"
        ) from unfit


def _check_consistency(checkpoint: dict) -> None:
    """Raise an InvalidValue for entries that are valid one by one and contradict each other."""
    groups = checkpoint["optimizer"]["param_groups"]
    numbers = [number for group in groups for number in group["params"]]
    unknown = checkpoint["optimizer"]["state"].keys() - set(numbers)
    if unknown or len(set(numbers)) != len(numbers):
        raise InvalidValue("optimizer has a state without a parameter, or a parameter twice")
    if checkpoint.get("ema") is not None and "ema_updates" not in checkpoint:
        raise InvalidValue("it has no 'ema_updates' beside 'ema'")
    for index, process in enumerate(checkpoint.get("processes", [])):
        metrics = process["metrics"]
        if len(metrics["names"]) != len(metrics["sums"]):
            raise InvalidValue(
                f"processes[{index}]['metrics'] has sums of other numbers than it names"
            )
