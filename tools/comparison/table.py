"""The table of a study as plain text."""

from collections.abc import Callable, Sequence
from typing import Any

from tools.comparison.results import Results
from util.errors import one_line

NONE = "-"
Write = Callable[[float | None], str]


def format_table(results: Results) -> str:
    """Return the table with what it is of above it, and its notes below."""
    study = results.study
    direction = "higher" if results.higher else "lower"
    metric = f"{results.label} ({results.metric})" if results.metric else "no number yet"
    lines = [
        one_line(study.title),
        f"{metric} after the last epoch, {direction} is better; {len(study.seeds)} seed(s); "
        "intervals: 95 % t",
        "",
    ]
    lines += _aligned(as_rows(results))
    if results.claims:
        lines += ["", *_aligned(claim_rows(results))]
    if results.notes:
        lines += ["", *(f"note: {one_line(note)}" for note in results.notes)]
    return "\n".join(lines)


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines; the first column is aligned to the left, the others to the right."""
    lines = []
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        name, *rest = (
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((name, *rest)).rstrip())
    return lines


def claim_rows(results: Results) -> list[Sequence[str]]:
    """Return the rows of the table of claims, headings first."""
    number = number_format(results)
    rows: list[Sequence[str]] = [("claim", "seeds", "difference", "its interval", "verdict")]
    for row in results.claims:
        found = row["difference"]
        rows.append(
            (
                one_line(row["text"], 300),
                str(found["count"]),
                _signed(found["mean"], number),
                _interval(found["low"], found["high"], number),
                row["verdict"],
            )
        )
    return rows


def heads(results: Results) -> list[str]:
    """Return the headings of the table's columns."""
    study = results.study
    return [
        "configuration", "seeds", "mean", "std", "interval", "difference", "its interval",
        "verdict", "parameters", "GMACs", "ms/step",
        *(f"steps to {threshold:g}" for threshold in study.thresholds),
        *(f"at size {size}" for size in study.image_sizes),
    ]  # fmt: skip


def row_cells(results: Results, row: dict[str, Any]) -> list[str]:
    """Return the cells of a configuration."""
    found, difference = row["estimate"], row.get("difference")
    number = number_format(results)
    seeds, wanted = found["count"], len(results.study.seeds)
    return [
        row["name"],
        str(seeds) if seeds == wanted else f"{seeds} of {wanted}",
        number(found["mean"]),
        number(found["std"]),
        _interval(found["low"], found["high"], number),
        *(
            ("baseline", NONE, NONE)
            if difference is None
            else (
                _signed(difference["mean"], number),
                _interval(difference["low"], difference["high"], number),
                row["verdict"],
            )
        ),
        NONE if row["parameters"] is None else f"{row['parameters']:,}",
        NONE if row["image_cost"] is None else _giga(row["image_cost"]["multiply_accumulates"]),
        NONE if row["step_milliseconds"] is None else f"{row['step_milliseconds']:.4g}",
        *map(_steps, row["steps_to"]),
        *(_at_size(size, number) for size in row["sizes"].values()),
    ]


def number_format(results: Results) -> Write:
    """Return what writes values of the metric: 4 decimals, or 2 for per cent and the like."""
    values = [abs(row["estimate"]["mean"] or 0) for row in results.rows]
    decimals = 2 if max(values) >= 10 else 4

    def write(value: float | None) -> str:
        return NONE if value is None else f"{value:.{decimals}f}"

    return write


def _interval(low: float | None, high: float | None, number: Write) -> str:
    return NONE if low is None else f"{number(low)} .. {number(high)}"


def _signed(value: float | None, number: Write) -> str:
    text = number(value)
    return text if value is None or text.startswith("-") else f"+{text}"


def _giga(count: int) -> str:
    return f"{count / 1e9:.4g}"


def _at_size(found: dict[str, Any], number: Write) -> str:
    difference = found.get("difference", {}).get("mean")
    mean = number(found["estimate"]["mean"])
    return mean if difference is None else f"{mean} ({_signed(difference, number)})"


def _steps(found: dict[str, Any]) -> str:
    if not found["of"]:
        return NONE
    if found["reached"] < found["of"]:
        return f"{found['reached']} of {found['of']} seeds"
    return NONE if found["mean"] is None else f"{found['mean']:,.0f}"


def as_rows(results: Results) -> list[Sequence[str]]:
    """Return the table's rows of cells, headings first."""
    return [heads(results), *(row_cells(results, row) for row in results.rows)]
