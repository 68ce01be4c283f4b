"""Statistics over seeds: by hand, by scipy, by simulation, and of runs that were measured."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from tests.helpers.commands import ROOT
from tools.comparison.seed_statistics import (
    Estimate,
    band,
    differences,
    estimate,
    finite,
    first_reached,
    left_out,
    verdict,
)

NAN, INF = math.nan, math.inf


def test_numbers_worked_out_by_hand():
    """Of 1, ..., 5: deviation sqrt(10 / 4), and 2.776445 is t of 4 degrees at 97.5 %."""
    half = 2.776445 * math.sqrt(2.5 / 5)
    found = estimate([3, 1, 5, 2, 4])
    assert found == pytest.approx((5, 3, math.sqrt(2.5), 3 - half, 3 + half), abs=1e-6)
    # Of two numbers: deviation 1 / sqrt(2), 12.706205 is t of one degree.
    assert estimate([0, 1]) == pytest.approx(
        (2, 0.5, math.sqrt(0.5), 0.5 - 12.706205 / 2, 0.5 + 12.706205 / 2), abs=1e-5
    )
    assert estimate([0.1, 0.1, 0.1]) == (3, 0.1, 0, 0.1, 0.1)


def test_one_number_has_no_interval_and_none_no_mean():
    assert estimate([0.25]) == Estimate(1, 0.25, None, None, None)
    assert estimate([]) == Estimate(0, None, None, None, None)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_what_is_not_finite_is_not_averaged(bad):
    with pytest.raises(ValueError, match="not finite"):
        estimate([0.5, bad, 0.5])
    with pytest.raises(ValueError, match="not finite"):
        estimate([bad])
    values = {3: 0.5, 1: bad, 2: None}
    assert finite(values) == {3: 0.5} and left_out(values) == [1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_paired_intervals_are_those_of_scipy(seed):
    random = np.random.default_rng(seed)
    ours, theirs = random.normal(0.6, 0.02, 7), random.normal(0.5, 0.03, 7)
    by_seed = differences(dict(enumerate(ours)), dict(enumerate(theirs)))
    found = estimate(list(by_seed.values()))
    wanted = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=1e-9)
    wanted = stats.ttest_rel(ours, theirs).confidence_interval(0.8)
    found = estimate(list(by_seed.values()), 0.8)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=1e-9)


def test_intervals_cover_what_they_claim():
    """2,000 studies of 5 seeds; runs of a seed share more than what they differ in."""
    random = np.random.default_rng(0)
    gain, covered, shown = 0.01, 0, 0
    for _ in range(2000):
        shared = random.normal(0.5, 0.05, 5)
        baseline = dict(enumerate(shared + random.normal(0, 0.01, 5)))
        ours = dict(enumerate(shared + gain + random.normal(0, 0.01, 5)))
        found = estimate(list(differences(ours, baseline).values()))
        covered += found.low <= gain <= found.high
        same = dict(enumerate(shared + random.normal(0, 0.01, 5)))
        shown += verdict(estimate(list(differences(same, baseline).values()))) != "not shown"
    assert 0.93 <= covered / 2000 <= 0.97
    assert 0.03 <= shown / 2000 <= 0.07  # of what changes nothing, 1 in 20


def test_differences_are_of_the_same_seed():
    ours = {5: 0.9, 1: 0.5, 2: NAN, 3: 0.4, 7: 0.1}
    theirs = {1: 0.25, 2: 0.3, 3: None, 5: 0.4, 6: 0.2}
    assert differences(ours, theirs) == {5: 0.5, 1: 0.25}
    assert differences(theirs, ours) == {1: -0.25, 5: -0.5}


@pytest.mark.parametrize(
    ("low", "high", "higher", "says"),
    [
        (0.01, 0.2, True, "better"), (0.01, 0.2, False, "worse"), (-0.2, -0.01, True, "worse"),
        (-0.2, -0.01, False, "better"), (-0.1, 0.2, True, "not shown"), (0, 0.2, True, "not shown"),
        (-0.2, 0, False, "not shown"), (None, None, True, "not shown"),
    ],
)  # fmt: skip
def test_verdicts(low, high, higher, says):
    assert verdict(Estimate(5, 0.1, 0.1, low, high), higher) == says


def test_when_a_threshold_is_reached():
    points = [(0, NAN), (1, INF), (2, -INF), (3, 0.2), (6, 0.5), (9, 0.4), (12, 0.6)]
    assert first_reached(points, 0.5) == 6 and first_reached(points, 0.51) == 12
    assert first_reached(points, 0.7) is None and first_reached([], 0) is None
    assert first_reached(points, 0.3, higher_is_better=False) == 3


def test_bands_are_over_all_seeds_or_not_there():
    one, two = {0: 1.0, 1: 2.0, 2: NAN, 3: 4.0}, {0: 3.0, 1: 2.5, 2: 1.0, 4: 9.0}
    assert band([one, two]) == [(0, 2, 1, 3), (1, 2.25, 2, 2.5)]
    assert band([two]) == [(epoch, v, v, v) for epoch, v in two.items()]
    assert band([]) == [] and band([one, {}]) == []


def test_a_study_that_was_measured():
    """The numbers that are published of --dec_rpe, which other code has computed."""
    content = json.loads((ROOT / "studies/dec_rpe/results.json").read_text())
    last, reached = {"none": {}, "box-log": {}}, {"none": [], "box-log": []}
    for run in content["runs"]:
        name, points = run["configuration"], run["points"]
        last[name][run["seed"]] = points[-1][1]
        reached[name].append((first_reached(points, 0.5) + 1) * 250)
    found = estimate(list(differences(last["box-log"], last["none"]).values()))
    assert (found.mean, found.low, found.high) == pytest.approx((0.0831, 0.0522, 0.1141), abs=5e-5)
    assert verdict(found) == "better"
    assert reached == {"none": [4750, 4500, 5000, 4750, 4750],
                       "box-log": [2500, 2750, 2750, 2500, 2500]}  # fmt: skip
