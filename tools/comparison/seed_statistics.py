"""Means over seeds, their intervals, and paired differences; numbers in, numbers out.

Intervals are Student's t intervals. The alternative, a bootstrap over seeds, is too narrow for the
few seeds that a study has: of five numbers, its 95 % percentile interval covers the mean in some
85 % of studies (the t interval in 95 %), and it can never leave the range of the five.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, mean, stdev
from typing import Any, NamedTuple

from scipy import stats

CONFIDENCE = 0.95
BETTER, WORSE, NOT_SHOWN = "better", "worse", "not shown"


class Estimate(NamedTuple):
    """A mean and what is known of it.

    Attributes:
        count: of numbers.
        mean: None without any number.
        std: standard deviation, with n - 1 in its divisor; None for fewer than two numbers.
        low, high: ends of the t interval; None for fewer than two numbers.
    """

    count: int
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Return mean, standard deviation and t interval of independent numbers.

    Raises:
        ValueError: a number is NaN or infinite; such numbers have to be reported, not averaged.
    """
    if not all(map(math.isfinite, values)):
        raise ValueError("a number is not finite")
    count = len(values)
    if count < 2:
        return Estimate(count, *values)
    middle, std = mean(values), stdev(values)  # exact: equal numbers have a deviation of 0
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * std / math.sqrt(count)
    return Estimate(count, middle, std, middle - half, middle + half)


def finite(values: Mapping[int, float | None]) -> dict[int, float]:
    """Return the numbers by seed that are neither missing (None) nor NaN or infinite."""
    return {
        seed: value for seed, value in values.items() if value is not None and math.isfinite(value)
    }


def differences(
    values: Mapping[int, float | None], baseline: Mapping[int, float | None]
) -> dict[int, float]:
    """Return value - baseline of each seed for which both are finite, in the order of `values`."""
    ours, theirs = finite(values), finite(baseline)
    return {seed: value - theirs[seed] for seed, value in ours.items() if seed in theirs}


def left_out(values: Mapping[int, float | None]) -> list[int]:
    """Return the seeds whose number is missing, NaN or infinite."""
    return [seed for seed in values if seed not in finite(values)]


def verdict(difference: Estimate, higher_is_better: bool = True) -> str:
    """Say whether a paired difference to the baseline shows anything.

    Returns:
        "better" or "worse" if the interval excludes 0, else "not shown", also without an interval.
    """
    if difference.low is None or difference.high is None:
        return NOT_SHOWN
    if difference.low > 0:
        return BETTER if higher_is_better else WORSE
    if difference.high < 0:
        return WORSE if higher_is_better else BETTER
    return NOT_SHOWN


def compared(
    values: Mapping[int, float | None],
    baseline: Mapping[int, float | None],
    higher_is_better: bool,
    selected: bool,
) -> dict[str, Any]:
    """Return a paired difference and its verdict, as comparison.json has them.

    Args:
        values, baseline: by seed.
        selected: whether a number of theirs is missing or not finite, as where a run diverged or
            is not finished. Then there is no verdict but "not shown": the seeds that are left are
            a selection.
    """
    by_seed = differences(values, baseline)
    difference = estimate(list(by_seed.values()))
    return {
        "difference": difference._asdict(),
        "differences": {str(seed): value for seed, value in by_seed.items()},
        "verdict": NOT_SHOWN if selected else verdict(difference, higher_is_better),
    }


def first_reached(
    points: Sequence[tuple[int, float]], threshold: float, higher_is_better: bool = True
) -> int | None:
    """Return the first epoch whose value is at least (or at most) the threshold; None for never.

    Args:
        points: (epoch, value) in order of epochs; NaN and infinity reach nothing.
    """
    for epoch, value in points:
        reached = value >= threshold if higher_is_better else value <= threshold
        if reached and math.isfinite(value):
            return epoch
    return None


def band(curves: Sequence[Mapping[int, float]]) -> list[tuple[int, float, float, float]]:
    """Return (epoch, mean, lowest, highest) over the curves of seeds.

    Only of epochs at which each curve has a finite number: a mean over other seeds at each epoch
    would jump where one is missing.
    """
    if not curves:
        return []
    epochs = set.intersection(
        *({epoch for epoch, value in curve.items() if math.isfinite(value)} for curve in curves)
    )
    columns = [(epoch, [curve[epoch] for curve in curves]) for epoch in sorted(epochs)]
    return [(epoch, fmean(column), min(column), max(column)) for epoch, column in columns]
