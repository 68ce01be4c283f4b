"""Descriptions of what a file's content has to be: types, sizes and ranges."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Called with a value and the name of its place; raises Unfit unless the value is of that kind.
Kind = Callable[[Any, str], None]

LARGEST = 2**63 - 1  # of whole numbers, in files as in tensors
SHOWN = 60  # letters of a text in a message


class Unfit(ValueError):
    """A value is not what it has to be. The message is one line that names its place."""


def shown(value: Any) -> str:
    """A value of any type and size in a few words."""
    if isinstance(value, str):
        return repr(value) if len(value) <= SHOWN else f"{value[:SHOWN]!r}..."
    if isinstance(value, int) and abs(value) > LARGEST:
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, Tensor):
        return f"a tensor of {value.dim()} dimension(s) of {str(value.dtype).split('.')[1]}"
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return f"of type {type(value).__name__}"


def whole(least: int = 0, most: int = LARGEST) -> Kind:
    """A whole number from `least` to `most`."""
    return _scalar(int, "a whole number", least, most)


def number(least: float = -math.inf, most: float = math.inf, finite: bool = True) -> Kind:
    """A number from `least` to `most`; neither NaN nor infinity if it has to be finite."""
    ranged = _scalar(int | float, "a number", least, most)

    def check(value: Any, place: str) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            if finite:
                raise Unfit(f"{place} is {value}, not a finite number")
        else:
            ranged(value, place)

    return check


def _scalar(types: type, what: str, least: float, most: float) -> Kind:
    if (least, most) != (-math.inf, math.inf):
        what += (
            f" of at least {least}" if most in (LARGEST, math.inf) else f" from {least} to {most}"
        )

    def check(value: Any, place: str) -> None:
        fits = isinstance(value, types) and not isinstance(value, bool)
        too_long = isinstance(value, int) and abs(value) > LARGEST
        if not fits or too_long or not least <= value <= most:
            raise Unfit(f"{place} is {shown(value)}, not {what}")

    return check


def text(most: int) -> Kind:
    """A text of up to `most` letters."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, str):
            raise Unfit(f"{place} is {shown(value)}, not a text")
        if len(value) > most:
            raise Unfit(f"{place} is a text of {len(value)} letters, more than {most}")

    return check


def exactly(wanted: bool | int | str) -> Kind:
    """This value."""

    def check(value: Any, place: str) -> None:
        if type(value) is not type(wanted) or value != wanted:
            raise Unfit(f"{place} is {shown(value)}, not {wanted}")

    return check


def maybe(kind: Kind) -> Kind:
    """None, or of that kind."""

    def check(value: Any, place: str) -> None:
        if value is not None:
            kind(value, place)

    return check


def list_of(kind: Kind, least: int = 0, most: int = LARGEST) -> Kind:
    """A list or tuple of `least` to `most` values of that kind."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, list | tuple):
            raise Unfit(f"{place} is {shown(value)}, not a list")
        if not least <= len(value) <= most:
            wanted = least if least == most else f"{least} to {most}"
            raise Unfit(f"{place} has {len(value)} entries, not {wanted}")
        for index, entry in enumerate(value):
            kind(entry, f"{place}[{index}]")

    return check


def table(key: Kind, kind: Kind, most: int) -> Kind:
    """A dictionary of up to `most` values of that kind."""

    def check(value: Any, place: str) -> None:
        _check_dict(value, place)
        if len(value) > most:
            raise Unfit(f"{place} has {len(value)} entries, more than {most}")
        for name, entry in value.items():
            key(name, f"a name in {place}")
            kind(entry, f"{place}[{shown(name)}]")

    return check


def fields(required: dict[str, Kind], optional: dict[str, Kind] | None = None) -> Kind:
    """A dictionary with these entries, in which others do not matter."""

    def check(value: Any, place: str) -> None:
        _check_dict(value, place)
        for name, kind in {**required, **(optional or {})}.items():
            if name in value:
                kind(value[name], f"{place}[{name!r}]" if place else name)
            elif name in required:
                raise Unfit(f"{place or 'it'} has no {name!r}")

    return check


def _check_dict(value: Any, place: str) -> None:
    if not isinstance(value, dict):
        raise Unfit(f"{place or 'it'} is {shown(value)}, not a dictionary")


def tensor(
    dtypes: Iterable[torch.dtype] | None = None,
    dims: int | None = None,
    size: int | None = None,
    finite: bool = False,
    least: float | None = None,
) -> Kind:
    """A tensor of plain numbers in the CPU's memory, each of which has a place of its own there.

    Args:
        dtypes: any of these; floating-point and whole numbers of any size if not given.
        size: of the first dimension.
        least: no element is smaller.
    """

    def check(value: Any, place: str) -> None:
        if not isinstance(value, Tensor):
            raise Unfit(f"{place} is {shown(value)}, not a tensor")
        plain = value.layout is torch.strided and value.device.type == "cpu"
        kind = value.dtype
        if not plain or kind.is_complex or kind is torch.bool or value.is_quantized:
            raise Unfit(f"{place} is {shown(value)}, not one of plain numbers")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise Unfit(f"{place} has more elements than the file has numbers for it")
        if dtypes is not None and kind not in dtypes:
            raise Unfit(f"{place} is {shown(value)}, not of {', '.join(map(str, dtypes))}")
        if dims is not None and value.dim() != dims:
            raise Unfit(f"{place} is {shown(value)}, not of {dims}")
        if size is not None and len(value) != size:
            raise Unfit(f"{place} has {len(value)} elements, not {size}")
        if finite and not value.isfinite().all():
            raise Unfit(f"{place} holds numbers that are not finite")
        if least is not None and (value < least).any():
            raise Unfit(f"{place} holds numbers below {least}")

    return check


def plain_value(depth: int) -> Kind:
    """What JSON can say, nested up to `depth` deep."""
    scalar = number(finite=False)

    def check(value: Any, place: str) -> None:
        if value is None or isinstance(value, bool | str):
            return
        if not isinstance(value, list | tuple | dict):
            scalar(value, place)
        elif depth == 0:
            raise Unfit(f"{place} is nested too deep")
        elif isinstance(value, dict):
            for name, entry in value.items():
                if not isinstance(name, str):
                    raise Unfit(f"a name in {place} is {shown(name)}, not a text")
                inner(entry, place)
        else:
            for entry in value:
                inner(entry, place)

    inner = plain_value(depth - 1) if depth > 0 else None
    return check
