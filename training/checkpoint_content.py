"""What a checkpoint has to hold. Its file is read without running code, which promises no types."""

import torch

from training.log_rows import MOST_EPOCHS, check_row
from util.errors import UserError
from util.schema import (
    InvalidValue,
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

MOST_TENSORS = 100_000
MOST_PROCESSES = 100_000
MOST_STEPS = 10**12

# ---- the model ----

WEIGHTS = dict_of(text(500), tensor(), MOST_TENSORS)
MODEL = fields(
    {"model": WEIGHTS},
    {
        "ema": optional(WEIGHTS),
        "ema_updates": integer(),
        "classes": optional(dict_of(integer(), text(1000), MOST_TENSORS)),
    },
)

# ---- where training stopped ----

RATE = number(0, 1e9)


def _steps(value: object, place: str) -> None:
    """PyTorch 1 writes a number, later versions a tensor."""
    if isinstance(value, torch.Tensor):
        tensor(dims=0, finite=True, low=0)(value, place)
    else:
        number(0, MOST_STEPS)(value, place)


OPTIMIZER = fields(
    {
        "state": dict_of(
            integer(),
            fields(
                {
                    "step": _steps,
                    "exp_avg": tensor(finite=True),
                    "exp_avg_sq": tensor(finite=True, low=0),
                }
            ),
            MOST_TENSORS,
        ),
        "param_groups": list_of(
            fields(
                {
                    "params": list_of(integer(), high=MOST_TENSORS),
                    "lr": RATE,
                    "initial_lr": RATE,
                    "betas": list_of(number(0, 0.9999999), 2, 2),
                    "eps": number(0, 1),
                    "weight_decay": RATE,
                },
                # With any of these set, training would be another one than main.py's.
                {"maximize": exactly(False), "amsgrad": exactly(False)},
            ),
            high=2,
        ),
    }
)
SCHEDULE = fields(
    {
        "step_size": integer(1),
        "gamma": number(0, 1),
        "base_lrs": list_of(RATE, 2, 2),
        "last_epoch": integer(0, MOST_EPOCHS),
    },
    {"_step_count": integer(), "_last_lr": list_of(RATE, 2, 2)},
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


def _python_state(value: object, place: str) -> None:
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
        "count": integer(0, MOST_STEPS),
    }
)
TRAINING = fields(
    {
        "optimizer": OPTIMIZER,
        "lr_scheduler": SCHEDULE,
        "epoch": integer(-1, MOST_EPOCHS),
    },
    {
        "step": integer(0, MOST_STEPS),
        "processes": list_of(fields({"random": RANDOM, "metrics": METRICS}), high=MOST_PROCESSES),
        "log": list_of(check_row, high=MOST_EPOCHS),
        "pending": optional(dict_of(text(200), plain_value(3), 10_000)),
        "scaler": optional(SCALER),
        "images": integer(1),
        "skipped": list_of(integer()),
    },
)


def check_model(checkpoint: object, given: str) -> None:
    """Raise a UserError unless a checkpoint holds weights, and names of classes if any.

    Args:
        given: the checkpoint, as the user named it.
    """
    try:
        MODEL(checkpoint, "")
    except InvalidValue as unfit:
        raise UserError(f"{given}: not a detector's checkpoint: {unfit}") from unfit


def check_training(checkpoint: dict, given: str) -> None:
    """Raise a UserError unless training can go on from a checkpoint's state."""
    try:
        TRAINING(checkpoint, "")
        _check_together(checkpoint)
    except InvalidValue as unfit:
        raise UserError(
            f"{given}: its state of training cannot be gone on with: {unfit}; its weights can be "
            "evaluated with --eval"
        ) from unfit


def _check_together(checkpoint: dict) -> None:
    """Raise an InvalidValue for parts that are right one by one and do not fit each other."""
    groups = checkpoint["optimizer"]["param_groups"]
    numbers = [number for group in groups for number in group["params"]]
    strange = checkpoint["optimizer"]["state"].keys() - set(numbers)
    if strange or len(set(numbers)) != len(numbers):
        raise InvalidValue("optimizer has a state of no parameter, or a parameter twice")
    if checkpoint.get("ema") is not None and "ema_updates" not in checkpoint:
        raise InvalidValue("it has no 'ema_updates' beside 'ema'")
    for index, process in enumerate(checkpoint.get("processes", [])):
        metrics = process["metrics"]
        if len(metrics["names"]) != len(metrics["sums"]):
            raise InvalidValue(
                f"processes[{index}]['metrics'] has sums of other numbers than it names"
            )
