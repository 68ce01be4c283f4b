"""The files of a study: comparison.json with every number, comparison.html and .png to look at."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import scipy

from tools.comparison.picture import draw_study
from tools.comparison.results import Results
from tools.comparison.table import as_rows, claim_rows
from tools.html_page.frame import render_page
from tools.run_curves.charts import run_colours
from util.errors import one_line
from util.files import atomic_write
from util.machine import surroundings

ASSETS = Path(__file__).parent / "assets"
JSON, PAGE, PICTURE = "comparison.json", "comparison.html", "comparison.png"


def write_report(results: Results, root: Path, command: Sequence[str]) -> None:
    """Write comparison.json, comparison.html and comparison.png.

    Args:
        command: words of the command line.

    Raises:
        UserError: a file cannot be written.
    """
    # Runs that this command starts get as many threads as it has.
    facts = surroundings(command, numpy=numpy.__version__, scipy=scipy.__version__)
    content = json.dumps({**facts, **results.content()}, indent=1, allow_nan=False)
    with atomic_write(root / JSON) as file:
        file.write(f"{content}\n".encode())
    page = render_page(ASSETS, one_line(results.study.title), page_data(results, facts))
    with atomic_write(root / PAGE) as file:
        file.write(page.encode())
    draw_study(results, root / PICTURE)


def page_data(results: Results, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what the page's script finds as `data`."""
    names = list(results.study.configurations)
    colours = dict(zip(names, run_colours(len(names)), strict=True))
    compared = [row for row in results.rows if not row["is_baseline"]]
    return {
        "about": [
            f"{results.label} after the last epoch, {'higher' if results.higher else 'lower'} is "
            f"better; seeds {', '.join(map(str, results.study.seeds))}; intervals: 95 % t",
            f"{facts['date']}; runs with {_machines(results)}",
        ],
        "table": as_rows(results),
        "claims": claim_rows(results) if results.claims else [],
        "notes": results.notes,
        "configurations": [{"name": name, "colour": colours[name]} for name in names],
        "charts": [
            {
                "title": chart["title"],
                "lines": [
                    {
                        "name": name,
                        "points": [[epoch + 1, *map(_short, values)] for epoch, *values in points],
                    }
                    for name, points in chart["lines"].items()
                ],
            }
            for chart in results.curves()
        ],
        "baseline": results.study.baseline,
        "differences": [
            {
                "name": row["name"],
                "verdict": row["verdict"],
                "mean": row["difference"]["mean"],
                "low": row["difference"]["low"],
                "high": row["difference"]["high"],
                "seeds": list(row["differences"].items()),
            }
            for row in compared
        ],
    }


def _machines(results: Results) -> str:
    """Return PyTorch's versions and the processors that the runs were trained with."""
    pairs = ((of.get("torch", "?"), of.get("cpu", "?")) for of in results.machines() or [{}])
    return "; ".join(dict.fromkeys(f"torch {torch}, {cpu}" for torch, cpu in pairs))


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")
