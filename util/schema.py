"""A schema language for what a file contains: types, sizes and ranges.

A schema is a check made of other checks, such as `list_of(number(0, 1), low=4, high=4)`. Parsers of
command lines use some of them before PyTorch is imported, so functions import it.
"""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Takes a value and the name of its place in the file; raises InvalidValue if it is not valid.
Check = Callable[[Any, str], None]

MAX_INT = 2**63 - 1  # in files as in tensors
MAX_SHOWN = 60  # characters of a string in a message


class InvalidValue(ValueError):
    """A value does not match its schema; the message is one line that names its place."""


def describe(value: Any) -> str:
    """Describe a value of any type and size in a few words."""
    from torch import Tensor

    if isinstance(value, str):
        return repr(value) if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]!r}..."
    if isinstance(value, int) and abs(value) > MAX_INT:
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, Tensor):
        return f"a tensor of {value.dim()} dimension(s) of {str(value.dtype).split('.')[1]}"
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return f"of type {type(value).__name__}"


def integer(low: int = 0, high: int = MAX_INT) -> Check:
    """Return a check for whole numbers from `low` to `high`."""
    return _scalar(int, "a whole number", low, high)


def number(low: float = -math.inf, high: float = math.inf, finite: bool = True) -> Check:
    """Return a check for numbers from `low` to `high`.

    Args:
        finite: False to let NaN and infinities pass, too.
    """
    ranged = _scalar(int | float, "a number", low, high)

    def check(value: Any, place: str) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            if finite:
                raise InvalidValue(f"{place} is {value}, not a finite number")
        else:
            ranged(value, place)

    return check


def _scalar(types: type, what: str, low: float, high: float) -> Check:
    if (low, high) != (-math.inf, math.inf):
        what += f" of at least {low}" if high in (MAX_INT, math.inf) else f" from {low} to {high}"

    def check(value: Any, place: str) -> None:
        fits = isinstance(value, types) and not isinstance(value, bool)
        too_long = isinstance(value, int) and abs(value) > MAX_INT
        if not fits or too_long or not low <= value <= high:
            raise InvalidValue(f"{place} is {describe(value)}, not {what}")

    return check


def text(max_length: int) -> Check:
    """Return a check for strings of up to `max_length` characters."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, str):
            raise InvalidValue(f"{place} is {describe(value)}, not a string")
        if len(value) > max_length:
            raise InvalidValue(
                f"{place} is a string of {len(value)} characters, more than {max_length}"
            )

    return check


def exactly(expected: bool | int | str) -> Check:
    """Return a check for this very value."""

    def check(value: Any, place: str) -> None:
        if type(value) is not type(expected) or value != expected:
            raise InvalidValue(f"{place} is {describe(value)}, not {expected}")

    return check


def optional(item: Check) -> Check:
    """Return a check for None and for what `item` takes."""

    def check(value: Any, place: str) -> None:
        if value is not None:
            item(value, place)

    return check


def list_of(item: Check, low: int = 0, high: int = MAX_INT) -> Check:
    """Return a check for lists and tuples of `low` to `high` items."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, list | tuple):
            raise InvalidValue(f"{place} is {describe(value)}, not a list")
        if not low <= len(value) <= high:
            size = low if low == high else f"{low} to {high}"
            raise InvalidValue(f"{place} has {len(value)} entries, not {size}")
        for index, entry in enumerate(value):
            item(entry, f"{place}[{index}]")

    return check


def dict_of(key: Check, item: Check, max_size: int) -> Check:
    """Return a check for dictionaries of up to `max_size` items."""

    def check(value: Any, place: str) -> None:
        _check_dict(value, place)
        if len(value) > max_size:
            raise InvalidValue(f"{place} has {len(value)} entries, more than {max_size}")
        for name, entry in value.items():
            key(name, f"a name in {place}")
            item(entry, f"{place}[{describe(name)}]")

    return check


def fields(required: dict[str, Check], optional: dict[str, Check] | None = None) -> Check:
    """Return a check for dictionaries with these entries; they may have any others, too."""

    def check(value: Any, place: str) -> None:
        _check_dict(value, place)
        for name, item in {**required, **(optional or {})}.items():
            if name in value:
                item(value[name], f"{place}[{name!r}]" if place else name)
            elif name in required:
                raise InvalidValue(f"{place or 'it'} has no {name!r}")

    return check


def _check_dict(value: Any, place: str) -> None:
    if not isinstance(value, dict):
        raise InvalidValue(f"{place or 'it'} is {describe(value)}, not a dictionary")


def tensor(
    dtypes: "Iterable[torch.dtype] | None" = None,
    dims: int | None = None,
    size: int | None = None,
    finite: bool = False,
    low: float | None = None,
) -> Check:
    """Return a check for strided tensors of real numbers in the CPU's memory.

    Their storage has to be as large as the tensor: files can hold tensors expanded to any size.

    Args:
        dtypes: The allowed dtypes; any floating-point and integer dtype if not given.
        dims: Number of dimensions.
        size: Size of the first dimension.
        finite: True if no element may be NaN or infinite.
        low: Smallest allowed element.
    """
    import torch

    def check(value: Any, place: str) -> None:
        if not isinstance(value, torch.Tensor):
            raise InvalidValue(f"{place} is {describe(value)}, not a tensor")
        plain = value.layout is torch.strided and value.device.type == "cpu"
        dtype = value.dtype
        if not plain or dtype.is_complex or dtype is torch.bool or value.is_quantized:
            raise InvalidValue(f"{place} is {describe(value)}, not one of plain numbers")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InvalidValue(f"{place} has more elements than the file has numbers for it")
        if dtypes is not None and dtype not in dtypes:
            raise InvalidValue(
                f"{place} is {describe(value)}, not of {', '.join(map(str, dtypes))}"
            )
        if dims is not None and value.dim() != dims:
            raise InvalidValue(f"{place} is {describe(value)}, not of {dims}")
        if size is not None and len(value) != size:
            raise InvalidValue(f"{place} has {len(value)} elements, not {size}")
        if finite and not value.isfinite().all():
            raise InvalidValue(f"{place} holds numbers that are not finite")
        if low is not None and (value < low).any():
            raise InvalidValue(f"{place} holds numbers below {low}")

    return check


def plain_value(depth: int) -> Check:
    """Return a check for what JSON can express, nested up to `depth` levels deep."""
    scalar = number(finite=False)

    def check(value: Any, place: str) -> None:
        if value is None or isinstance(value, bool | str):
            return
        if not isinstance(value, list | tuple | dict):
            scalar(value, place)
        elif depth == 0:
            raise InvalidValue(f"{place} is nested too deep")
        elif isinstance(value, dict):
            for name, entry in value.items():
                if not isinstance(name, str):
                    raise InvalidValue(f"a name in {place} is {describe(name)}, not a string")
                inner(entry, place)
        else:
            for entry in value:
                inner(entry, place)

    inner = plain_value(depth - 1) if depth > 0 else None
    return check
