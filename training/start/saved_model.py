"""What every checkpoint of a model has, whatever it learned: options, a version, its weights."""

import argparse
import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from training.checkpoint_content import check_model
from util import VERSION
from util.errors import UserError
from util.schema import describe


def saved_args(
    checkpoint: Any,
    source: str,
    kind: str,
    check: Callable[[argparse.Namespace, str], argparse.Namespace],
) -> argparse.Namespace | None:
    """Return the args of a checkpoint; None where it has none, as published files of weights.

    What is in the checkpoint is checked: types, and the limits of numbers. An option of a model is
    of the right type and within its range.

    Args:
        source: the checkpoint, as the user named it.
        kind: of the model, for messages.
        check: checks args, called with (args, source).

    Raises:
        UserError: it is not of such a model, or of a newer version of this project.
    """
    if isinstance(checkpoint, dict):
        _check_version(checkpoint.get("version"), source)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        has = _tensors_of(checkpoint)
        raise UserError(f"{source}: not a {kind}'s checkpoint, it has no 'model'{has}")
    check_model(checkpoint, source, kind)
    saved = checkpoint.get("args")
    if saved is None:
        return None
    if not isinstance(saved, argparse.Namespace):
        raise UserError(f"{source}: not a {kind}'s checkpoint, its 'args' are {describe(saved)}")
    return check(saved, source)


def load_exactly(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights that have to be those of the model, every one of them.

    Raises:
        UserError: a tensor does not fit, or has numbers that are not finite, with which nothing
            can be learned or found; the first such tensor is named.
    """
    try:
        model.load_state_dict(weights)
    except (RuntimeError, ValueError) as error:
        problem = (str(error).splitlines()[1:] or [str(error)])[0].strip()
        raise UserError(f"{source}: does not fit the model ({problem[:300]})") from error
    check_finite(model, source)


def check_finite(model: nn.Module, source: str) -> None:
    """Raise a UserError if a tensor of the model, loaded from `given`, has NaN or infinity."""
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise UserError(
                f"{source}: {name} holds numbers that are not finite: training had "
                "diverged; take an earlier checkpoint"
            )


def _check_version(version: Any, source: str) -> None:
    """Raise a UserError for a newer version than this, not counting its patch level.

    What does not look like a version is not of this project, and is left to other checks.
    """
    pattern = re.compile(r"(\d{1,9})\.(\d{1,9})(\.[\w.+-]{0,40})?", re.ASCII)
    found = pattern.fullmatch(version) if isinstance(version, str) else None
    own = pattern.fullmatch(VERSION)
    if found and own and _release(found) > _release(own):
        raise UserError(
            f"{source}: made by version {version} of this project, this is {VERSION}: update it"
        )


def _release(version: re.Match) -> tuple[int, int]:
    return int(version[1]), int(version[2])


def _tensors_of(content: Any) -> str:
    """Name the first tensor of a file that is not a checkpoint, for the message."""
    items = content.items() if isinstance(content, dict) else ()
    first = next((name for name, value in items if isinstance(value, Tensor)), None)
    return "" if first is None else f" but tensors such as {str(first)[:60]!r}"
