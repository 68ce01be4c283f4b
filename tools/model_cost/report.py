"""The report of tools/cost.py, as a table and as what its JSON file holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .measuring import PASSES
from .parts import Part, Row, rows_of
from .subjects import Size

TITLES = {"forward": "forward", "forward_backward": "forward and backward"}


@dataclass(frozen=True)
class SizeCost:
    """What a model costs at one size of images.

    Attributes:
        products: multiply-accumulates of the batch by part.
        measured: as from `measuring.measure_apart`; None if it was not asked for.
    """

    size: Size
    products: dict[str, int]
    measured: dict[str, Any] | None = None

    def __str__(self) -> str:
        """Return the size."""
        return f"{self.size[0]} x {self.size[1]}"


@dataclass(frozen=True)
class Report:
    """What a model costs.

    Attributes:
        model: describes it.
        parameters, trained: by part, as from `counts.count_parameters`.
        machine: as from `measuring.machine`.
    """

    model: str
    batch_size: int
    parts: tuple[Part, ...]
    parameters: dict[str, int]
    trained: dict[str, int]
    costs: Sequence[SizeCost]
    machine: dict[str, str]

    def content(self) -> dict[str, Any]:
        """Return what the JSON file holds."""
        return {
            "model": self.model,
            "batch_size": self.batch_size,
            "parameters": _entries(rows_of(self.parameters, self.parts)),
            "trained_parameters": sum(self.trained.values()),
            "sizes": [
                {
                    "height": cost.size[0],
                    "width": cost.size[1],
                    "multiply_accumulates": _entries(rows_of(cost.products, self.parts)),
                    "measured": cost.measured,
                }
                for cost in self.costs
            ],
            "machine": self.machine,
        }

    def lines(self) -> list[str]:
        """Return the lines of the table."""
        table = [
            ["", "parameters", *(f"MMAC, {cost}" for cost in self.costs)],
            *self._counts(),
            ["trained", f"{sum(self.trained.values()):,}"],
            *self._measurements(),
        ]
        width = len(table[0])
        table = [[*row, *[""] * (width - len(row))] for row in table]
        widths = [max(len(row[i]) for row in table) for i in range(width)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in table
        ]
        batch = f", batches of {self.batch_size}" if self.batch_size > 1 else ""
        facts = ", ".join(f"{name} {fact}" for name, fact in self.machine.items())
        return [f"{self.model}{batch}", "", *lines, *self._remarks(), "", facts]

    def _counts(self) -> list[list[str]]:
        """Return a row for each part that has parameters or products, and for the total."""
        columns = [rows_of(cost.products, self.parts) for cost in self.costs]
        products = {
            name: [next((row.value for row in rows if row.name == name), 0) for rows in columns]
            for name in dict.fromkeys(row.name for rows in columns for row in rows)
        }
        shown = []
        parameters = rows_of(self.parameters, self.parts)
        known = {row.name for row in parameters}
        others = [Row(name, None, 0) for name in products if name not in known]
        for row in (*parameters[:-1], *others, parameters[-1]):
            values = products.get(row.name, [0] * len(self.costs))
            if row.value or any(values):
                title = row.name if row.inside is None else f"  of which {row.name}"
                shown.append([title, f"{row.value:,}", *(f"{v / 1e6:,.1f}" for v in values)])
        return shown

    def _measurements(self) -> list[list[str]]:
        """Return rows of times and of memory, with a dash where one is not known."""
        shown = []
        for name in PASSES:
            if not any(name in (cost.measured or {}) for cost in self.costs):
                continue
            found = [(cost.measured or {}).get(name) or {} for cost in self.costs]
            times = [f"{each['milliseconds']:,.1f}" if each else "-" for each in found]
            peaks = [each.get("peak_bytes") for each in found]
            shown.append([f"{TITLES[name]}, ms", "", *times])
            shown.append(["  peak memory, MiB", "", *(_mebibytes(peak) for peak in peaks)])
        return [[""], *shown] if shown else []

    def _remarks(self) -> list[str]:
        """Say why something could not be measured, and what the memory of a process includes."""
        lines = []
        for cost in self.costs:
            measured = cost.measured or {}
            if "error" in measured:
                lines.append(f"{cost}: not measured: {measured['error']}")
            reasons = [(name, measured.get(name, {}).get("why_not")) for name in PASSES]
            lines += [f"{cost}: peak memory, {TITLES[n]}: {why}" for n, why in reasons if why]
        starts = [cost.measured.get("start_bytes") for cost in self.costs if cost.measured]
        if any(starts) and not self.machine["device"].startswith("cuda"):
            least = min(start for start in starts if start)
            lines.append(
                f"memory is the whole process's: it had {_mebibytes(least)} MiB, with the model, "
                "before the first pass"
            )
        return ["", *lines] if lines else []


def _entries(rows: list[Row]) -> list[dict[str, Any]]:
    return [row._asdict() for row in rows]


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:,.0f}"
