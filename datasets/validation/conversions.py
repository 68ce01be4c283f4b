"""From the values of a JSON file to arrays; numbers in texts are no numbers."""

from collections.abc import Callable
from itertools import chain

import numpy as np


def converted(
    values: list, convert: Callable[[list], np.ndarray | None], filler: float | list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Values as an array (n, ...), and (n,) bool where a value could not be used.

    Args:
        convert: gives an array of all values at once, or None if one of them cannot be used.
        filler: stands in for these.
    """
    array = convert(values)
    if array is not None:
        return array, np.zeros(len(values), dtype=bool)
    single = [convert([value]) for value in values]
    filling = np.array([filler])
    array = np.concatenate([filling if one is None else one for one in single])
    return array, np.array([one is None for one in single], dtype=bool)


def four_numbers(values: list) -> np.ndarray | None:
    """Lists of four, (n, 4) float64; for `converted`, as those below."""
    if not set(map(type, values)) <= {list} or not set(map(len, values)) <= {4}:
        return None
    numbers = _numbers(list(chain.from_iterable(values)), np.float64, {int, float})
    return None if numbers is None else numbers.reshape(-1, 4)


def finite_numbers(values: list) -> np.ndarray | None:
    numbers = _numbers(values, np.float64, {int, float})
    return None if numbers is None or not np.isfinite(numbers).all() else numbers


def whole_numbers(values: list) -> np.ndarray | None:
    return _numbers(values, np.int64, {int, bool})


def _numbers(values: list, dtype: type, kinds: set[type]) -> np.ndarray | None:
    # The types are asked first: numpy would read numbers in texts, too.
    if not set(map(type, values)) <= kinds:
        return None
    try:
        return np.array(values, dtype=dtype)
    except OverflowError:
        return None
