"""How runs differ: their options, and which of them differ in the seed alone."""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.comparison.seed_statistics import band
from tools.run_curves.runs import LoggedRun
from training.start.record import NOT_COMPARED
from util.errors import printable, truncate

UNKNOWN = "unknown"
OWN = {"output_dir", "resume", "dist_url"}  # differ wherever runs lie, which their names tell
MAX_SHOWN = 300  # characters of a value


@dataclass
class SeedMean(LoggedRun):
    """The mean of runs that differ in the seed alone, over the epochs that all of them have."""

    runs: Sequence[LoggedRun] = field(default_factory=list)

    def points(self, number: str) -> list[tuple[int, float]]:
        return [(epoch, mean) for epoch, mean, _, _ in self._band(number)]

    def band(self, number: str) -> list[tuple[int, float, float]]:
        return [(epoch, low, high) for epoch, _, low, high in self._band(number)]

    def _band(self, number: str) -> list[tuple[int, float, float, float]]:
        return band([dict(run.points(number)) for run in self.runs])


def mean_over_seeds(runs: Sequence[LoggedRun]) -> list[LoggedRun]:
    """Put runs that differ in the seed alone together; others stay as they are.

    What is a matter of the machine may differ, too, but for the number of processes. A run that
    does not say how it was made stays alone, and so do a second one with the same seed, and runs
    without an epoch that all of them have.
    """
    groups: dict[str, list[LoggedRun]] = {}
    for run in runs:
        options = {
            name: value
            for name, value in run.start.get("options", {}).items()
            if name not in NOT_COMPARED and name != "seed"
        }
        facts = [options, run.data, run.start.get("processes")]
        key = json.dumps(facts, sort_keys=True, default=str)
        if not run.start or any(_seed(run) == _seed(other) for other in groups.get(key, ())):
            key = run.name
        groups.setdefault(key, []).append(run)
    found: list[LoggedRun] = []
    for group in groups.values():
        found += [_mean_of(group)] if len(group) > 1 and _common_epochs(group) else group
    names = [run.name for run in found]
    for mean in found:
        if isinstance(mean, SeedMean) and names.count(mean.name) > 1:
            mean.name = f"{', '.join(run.name for run in mean.runs)} ({len(mean.runs)} seeds)"
    return found


def _seed(run: LoggedRun) -> Any:
    return run.start["options"].get("seed")


def _common_epochs(runs: Sequence[LoggedRun]) -> set[float]:
    return set.intersection(*({row["epoch"] for row in run.epochs} for run in runs))


def _mean_of(runs: list[LoggedRun]) -> SeedMean:
    common = _common_epochs(runs)
    epochs = [row for row in runs[0].epochs if row["epoch"] in common]
    letters = itertools.takewhile(
        lambda same: len(set(same)) == 1, zip(*(run.name for run in runs))
    )
    name = "".join(same[0] for same in letters)
    name = re.sub(r"[\W_]*(seed)?[\W_]*\d*$", "", name) or ", ".join(run.name for run in runs)
    start = {**runs[0].start, "options": {**runs[0].start["options"]}}
    start["options"]["seed"] = [_seed(run) for run in runs]
    return SeedMean(f"{name} ({len(runs)} seeds)", epochs, start=start, runs=runs)


def differences(runs: Sequence[LoggedRun]) -> list[tuple[str, list[str]]]:
    """Return options, and facts of the code and machine, that differ between runs, with each value.

    A run that does not say how it was made has no say in what differs.
    """
    known = [_facts(run) for run in runs]
    names = dict.fromkeys(name for facts in known for name in facts)
    rows = []
    for name in names:
        values = [(facts.get(name, "") if facts else UNKNOWN) for facts in known]
        if len({value for value, facts in zip(values, known, strict=True) if facts}) > 1:
            rows.append((name, values))
    return rows


def _facts(run: LoggedRun) -> dict[str, str]:
    """Return how a run was made, as texts by name; empty if it does not say."""
    if not run.start:
        return {}
    options = {
        f"--{name}": _shown(value)
        for name, value in run.start["options"].items()
        if name not in OWN
    }
    git = run.start.get("git")
    commit = str(git.get("commit"))[:10] if isinstance(git, dict) else ""
    changed = ", changed" if isinstance(git, dict) and git.get("changed") else ""
    others = {"processes": _shown(run.start.get("processes")), "validation data": run.data}
    return {**options, **others, "commit": printable(f"{commit}{changed}")}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return truncate(", ".join(map(_shown, value)), MAX_SHOWN)
    if value is None or value == "":
        return "-"
    return printable(truncate(str(value), MAX_SHOWN))
