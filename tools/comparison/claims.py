"""Claims of a study: that a group of configurations is better than another, with a verdict."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tools.comparison.seed_statistics import (
    BETTER,
    NOT_SHOWN,
    WORSE,
    compared,
    finite,
    left_out,
)
from util.schema import InvalidValue, describe, fields, integer, list_of, text

SHOWN, CONTRADICTED = "shown", "contradicted"
NAMES = list_of(text(80), 1, 1000)
CHECK = fields({"text": text(300), "better": NAMES, "worse": NAMES}, {"size": integer(1)})
Numbers = Mapping[str, Mapping[int, float | None]]  # of a metric, by configuration and seed


@dataclass(frozen=True)
class Claim:
    """What a study is to show.

    Attributes:
        text: of the claim, a sentence.
        better, worse: names of configurations.
        size: of the images it is about, one of the study's image_sizes; None for the size that the
            runs were trained with.
    """

    text: str
    better: tuple[str, ...]
    worse: tuple[str, ...]
    size: int | None = None

    def row(self, values: Numbers, higher_is_better: bool) -> dict[str, Any]:
        """Return the claim and its paired difference, as comparison.json has it.

        The difference is that of the groups' means, seed by seed, over the seeds for which all of
        their configurations have a finite number.
        """
        better, worse = (_group_mean(values, group) for group in (self.better, self.worse))
        selected = any(left_out(values[name]) for name in (*self.better, *self.worse))
        found = compared(better, worse, higher_is_better, selected)
        return {
            "text": self.text,
            "better": list(self.better),
            "worse": list(self.worse),
            "size": self.size,
            **found,
            "verdict": {BETTER: SHOWN, WORSE: CONTRADICTED}.get(found["verdict"], NOT_SHOWN),
        }


def read_claims(content: Any, names: Collection[str], sizes: Collection[int]) -> list[Claim]:
    """Return the claims of a study file.

    Args:
        content: of its key `claims`.
        names: of the study's configurations.
        sizes: its image_sizes.

    Raises:
        InvalidValue: the content is no list of claims about these configurations.
    """
    list_of(CHECK, 0, 100)(content, "claims")
    claims = []
    for place, entry in enumerate(content):
        where = f"claims[{place}]"
        for key in entry:
            if key not in ("text", "better", "worse", "size"):
                raise InvalidValue(
                    f"{where} has {describe(key)}; its keys are text, better, worse and size"
                )
        groups = [*entry["better"], *entry["worse"]]
        for name in groups:
            if name not in names:
                raise InvalidValue(f"{where}: {describe(name)} is none of configurations")
            if groups.count(name) > 1:
                raise InvalidValue(f"{where} names {describe(name)} twice")
        size = entry.get("size")
        if size is not None and size not in sizes:
            raise InvalidValue(f"{where}: size {size} is none of image_sizes")
        claims.append(Claim(entry["text"], tuple(entry["better"]), tuple(entry["worse"]), size))
    return claims


def _group_mean(values: Numbers, group: Collection[str]) -> dict[int, float | None]:
    """Return the mean over configurations of each seed for which all of them are finite."""
    columns = [finite(values[name]) for name in group]
    seeds = set.intersection(*map(set, columns))
    return {seed: fmean(column[seed] for column in columns) for seed in sorted(seeds)}
