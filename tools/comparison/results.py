"""What a study shows: numbers of each configuration, and what has to be said beside them."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tools.comparison.found_runs import ABSENT, FINISHED, FoundRun, check_metric
from tools.comparison.seed_statistics import (
    CONFIDENCE,
    band,
    compared,
    estimate,
    finite,
    first_reached,
    left_out,
)
from tools.comparison.study import Study, higher_is_better
from util.errors import one_line

MACHINE = ("device", "cpu", "threads", "operators")  # in args.json
CURVES = {"train_loss": "loss in training", "test_loss": "loss in validation"}


class Results:
    """The numbers of a study.

    Args:
        runs: all of the study's, from `found_runs.find_runs`.

    Attributes:
        metric: as named by `training.log.flat`; "" while no log has one of the task's.
        label: what the table calls it.
        rows: of each configuration, in the study's order; see `_row`.
        claims: the study's claims with their verdicts; see `Claim.row`.
        notes: a line for each number that is missing or not finite, and for each unfinished run.

    Raises:
        UserError: the study's metric is in no log.
    """

    def __init__(self, study: Study, runs: Iterable[FoundRun]):
        self.study = study
        self.runs = list(runs)
        self.names = study.command.metric_names()
        self.metric = study.metric or self._first_metric()
        check_metric(study, self.runs)
        self.label = self.names.get(self.metric, self.metric) or "metric"
        self.higher = higher_is_better(self.metric)
        self.notes: list[str] = []
        self._of = {
            name: [run for run in self.runs if run.configuration == name]
            for name in study.configurations
        }
        self._note_states()
        self.values = self._by_seed(self._last_value, self.label)
        self.sizes = {
            size: self._by_seed(
                lambda run, size=size: self._number(run.sizes.get(size, {})),
                f"{self.label} at size {size}",
            )
            for size in study.image_sizes
        }
        self.rows = [self._row(name) for name in study.configurations]
        self.claims = [
            claim.row(self.values if claim.size is None else self.sizes[claim.size], self.higher)
            for claim in study.claims
        ]
        self._note_comparisons()
        versions = sorted({run.version for run in self.runs if run.args is not None})
        if len(versions) > 1:
            self.notes.append(
                f"the runs are of different versions of this project: {', '.join(versions)}"
            )

    # ---- numbers of runs ----

    def _first_metric(self) -> str:
        for metric in self.names:
            if any(metric in row for run in self.runs for row in run.epochs):
                return metric
        return ""

    def _number(self, numbers: Mapping[str, float]) -> float | None:
        """Return the metric's number; None if it is not there, or there was nothing to score."""
        value = numbers.get(self.metric)
        if value is None:
            return None
        is_score = self.metric in self.names or self.study.command.task().log.is_score(self.metric)
        return None if is_score and value == -1 else float(value)

    def _last_value(self, run: FoundRun) -> float | None:
        return self._number(run.epochs[-1])

    def _by_seed(
        self, read: Callable[[FoundRun], float | None], what: str
    ) -> dict[str, dict[int, float | None]]:
        """Return numbers by configuration and seed, None of runs that are not finished.

        Notes what is missing of those that are.
        """
        found: dict[str, dict[int, float | None]] = {}
        for name, runs in self._of.items():
            found[name] = {run.seed: read(run) if run.state == FINISHED else None for run in runs}
            whose = "no configuration gets a" if name == self.study.baseline else f"{name} gets no"
            for run in runs:
                value = found[name][run.seed]
                if run.state != FINISHED or (value is not None and math.isfinite(value)):
                    continue
                missing = f"has no number {what}" if value is None else f"{what} is {value}"
                self.notes.append(
                    f"{run.name}: {missing}; left out of all means, and {whose} verdict: the seeds "
                    "that are left are a selection"
                )
        return found

    def points(self, run: FoundRun, metric: str) -> list[tuple[int, float]]:
        """Return (epoch, value) of a number of the log; -1, for nothing to score, is left out."""
        absent = -1 if self.study.command.task().log.is_score(metric) else None
        return [
            (int(row["epoch"]), float(row[metric]))
            for row in run.epochs
            if metric in row and row[metric] != absent
        ]

    # ---- notes ----

    def _note_states(self) -> None:
        for run in self.runs:
            if run.state == FINISHED:
                continue
            epochs = len(run.epochs)
            how_far = "not started" if run.state == ABSENT else f"unfinished, {epochs} epoch(s)"
            self.notes.append(f"{run.name}: {how_far}; not in the table")
        if self.notes:
            self.notes.append(
                "a configuration gets no verdict before all of its runs and of the baseline's are "
                "finished: the seeds that are left may be a selection"
            )

    def _note_comparisons(self) -> None:
        tested = len(self.study.configurations) - 1 + len(self.claims)
        if tested > 1:
            self.notes.append(
                f"{tested} differences are tested, of configurations and of claims, each by an "
                "interval of its own: of 20 that are nothing, one is shown by chance"
            )

    # ---- the table ----

    def _row(self, name: str) -> dict[str, Any]:
        """Return all numbers of a configuration, as comparison.json has them."""
        runs = [run for run in self._of[name] if run.state == FINISHED]
        cost = self.study.command.image_cost(runs[0].args) if runs else None
        return {
            "name": name,
            "is_baseline": name == self.study.baseline,
            **self._compared(name, self.values),
            "parameters": _common(run.epochs[-1].get("n_parameters") for run in runs),
            "image_cost": None if cost is None else cost._asdict(),
            "step_milliseconds": _mean(run.step_milliseconds() for run in runs),
            "steps_to": [self._steps_to(runs, threshold) for threshold in self.study.thresholds],
            "sizes": {
                str(size): self._compared(name, numbers) for size, numbers in self.sizes.items()
            },
        }  # fmt: skip

    def _compared(self, name: str, numbers: dict[str, dict[int, float | None]]) -> dict[str, Any]:
        """Return the estimate of a configuration, and its paired difference to the baseline."""
        values, baseline = numbers[name], numbers[self.study.baseline]
        numbers_of_seeds = {
            str(seed): {"value": value if value is not None and math.isfinite(value) else None,
                        "is_finite": None if value is None else math.isfinite(value)}
            for seed, value in values.items()
        }  # fmt: skip
        found = {
            "estimate": estimate(list(finite(values).values()))._asdict(),
            "seeds": numbers_of_seeds,
        }
        if name == self.study.baseline:
            return found
        selected = bool(left_out(values) or left_out(baseline))
        return found | compared(values, baseline, self.higher, selected)

    def _steps_to(self, runs: list[FoundRun], threshold: float) -> dict[str, Any]:
        """Return the steps of each seed to a threshold, and their mean if all have reached it."""
        steps: dict[str, int | None] = {}
        epochs: dict[str, int | None] = {}
        for run in runs:
            epoch = first_reached(self.points(run, self.metric), threshold, self.higher)
            per_epoch = run.steps_per_epoch()
            epochs[str(run.seed)] = None if epoch is None else epoch + 1
            known = epoch is not None and per_epoch is not None
            steps[str(run.seed)] = (epoch + 1) * per_epoch if known else None
        reached = sum(epoch is not None for epoch in epochs.values())
        found = [count for count in steps.values() if count is not None]
        return {
            "threshold": threshold,
            "reached": reached,
            "of": len(runs),
            "mean": sum(found) / len(found) if found and len(found) == len(runs) else None,
            "steps": steps,
            "epochs": epochs,
        }

    # ---- curves ----

    def curves(self) -> list[dict[str, Any]]:
        """Return charts: for each number, the mean and the range over seeds by epoch."""
        charts = []
        for metric, title in {self.metric: self.label, **CURVES}.items():
            lines = self.lines(metric)
            if any(lines.values()):
                charts.append({"title": title, "number": metric, "lines": lines})
        return charts

    def lines(self, metric: str) -> dict[str, list[tuple[int, float, float, float]]]:
        """Return (epoch, mean, lowest, highest) over finished runs, by configuration."""
        return {
            name: band([dict(self.points(run, metric)) for run in runs if run.state == FINISHED])
            for name, runs in self._of.items()
        }

    def trained_size(self, name: str) -> int | None:
        """Return the image size that a configuration is trained with."""
        args = self.study.expected_args(name, self.study.seeds[0])
        size = getattr(args, self.study.command.size_name)
        return size if isinstance(size, int) else None

    def machines(self) -> list[dict[str, str]]:
        """Return what the runs were trained with, each combination once, as far as they say."""
        found = []
        for run in self.runs:
            versions = run.start.get("versions")
            facts = {
                **(versions if isinstance(versions, dict) else {}),
                **{name: run.start[name] for name in MACHINE if name in run.start},
            }
            texts = {one_line(str(k), 40): one_line(str(v), 100) for k, v in facts.items()}
            if texts and texts not in found:
                found.append(texts)
        return found

    def content(self) -> dict[str, Any]:
        """Return everything but curves as JSON has it."""
        return {
            "title": self.study.title,
            "study": self.study.content,
            "metric": self.metric,
            "label": self.label,
            "higher_is_better": self.higher,
            "confidence": CONFIDENCE,
            "made_on": self.machines(),
            "configurations": self.rows,
            "claims": self.claims,
            "runs": [
                {
                    "configuration": run.configuration,
                    "seed": run.seed,
                    "folder": str(run.folder),
                    "state": run.state,
                    "epochs": len(run.epochs),
                    "processes": None if run.args is None else run.args.world_size,
                    "step_milliseconds": None if run.args is None else run.step_milliseconds(),
                    "points": [
                        (epoch, value if math.isfinite(value) else None)
                        for epoch, value in self.points(run, self.metric)
                    ],
                }
                for run in self.runs
            ],
            "notes": self.notes,
        }


def _common(values: Iterable[float | None]) -> int | None:
    """Return the number that all have; None if they differ, or one has none."""
    found = set(values)
    (value,) = found if len(found) == 1 else (None,)
    return None if value is None else int(value)


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the numbers that are there; None without any."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
