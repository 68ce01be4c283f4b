"""Write the tables of benchmarks/README.md from the result files.

    python benchmarks/tables.py

A table stands between `<!-- NAME -->` and `<!-- end -->`; NAME is that of a file in results/.
"""

import json
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE, RESULTS = HERE / "README.md", HERE / "results"
MARKED = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

# Of each benchmark: heading of a column, and how a result fills it.
COLUMNS: dict[str, dict[str, str]] = {
    "detector": {
        "": "{task}, {case}",
        "published": "{baseline_seconds:.2f} s",
        "here": "{seconds:.2f} s",
        "images/s": "{images_per_second:.2f}",
        "faster": "**{times_faster:.2f}x**",
        "peak, published": "{baseline_peak_mb} MB",
        "peak, here": "{peak_mb} MB",
    },
    "masks": {
        "": "{task}, {way}",
        "time": "{seconds:.2f} s",
        "of the first line's": "{times_first:.2f}x",
        "peak": "{peak_mb} MB",
        "above the first line's": "{mb_above_first} MB",
    },
    "attention": {
        "map": "{map}, batch {batch_size}",
        "relative positions, by": "{variant}",
        "forward + backward": "{milliseconds:.1f} ms",
        "of sdpa without": "{times_sdpa_without:.2f}x",
        "extra memory": "{extra_mb:.0f} MB",
    },
    "encoder_layer": {
        "map": "{map}, batch {batch_size}",
        "relative positions, by": "{variant}",
        "forward + backward": "{milliseconds:.1f} ms",
        "of auto without": "{times_without_rpe:.2f}x",
    },
    "matching": {
        "images": "{batch_size}",
        "objects an image": "{objects}",
        "what": "{variant}",
        "time": "{milliseconds:.2f} ms",
        "faster": "{times_faster:.2f}x",
    },
    "loader_speed": {
        "images from": "{source}",
        "augment": "{augment}",
        "by": "{way}",
        "images/s, one process": "{images_per_second}",
        "faster": "{times_faster:.2f}x",
    },
    "loader_memory": {
        "annotations kept as": "{way}",
        "workers": "{workers}",
        "memory of all processes": "{megabytes} MB",
        "of the first line's": "{times_first:.2f}x",
    },
    "help_time": {
        "command": "`{variant}`",
        "time": "{milliseconds} ms",
        "of Python that does nothing": "{times_nothing:.1f}x",
    },
    "scoring": {
        "scorer": "{scorer}",
        "time": "{seconds:.2f} s",
        "faster": "{times_faster:.2f}x",
    },
}


def fill(pattern: str, result: dict) -> str:
    """Format a cell; empty if the result lacks a value."""
    try:
        return pattern.format_map(result)
    except KeyError:
        return ""


def table(name: str) -> str:
    """Return a result file's markdown table, below a description of its machine."""
    content = json.loads((RESULTS / f"{name}.json").read_text())
    kind = next(known for known in COLUMNS if name.startswith(known))
    facts = ", ".join(f"{key} {value}" for key, value in content["machine"].items())
    rows = [
        [fill(pattern, result) for pattern in COLUMNS[kind].values()]
        for result in content["results"]
        if any(key in result for key in ("milliseconds", "seconds", "way")) and "step" not in result
    ]
    used = [any(row[i] for row in rows) for i in range(len(COLUMNS[kind]))]
    lines = [list(COLUMNS[kind]), ["---"] * len(used), *rows]
    kept = [[cell for cell, wanted in zip(line, used, strict=True) if wanted] for line in lines]
    return "\n".join([f"{facts}", "", *(f"| {' | '.join(line)} |" for line in kept), ""])


def filled(page: str) -> str:
    """Return the page with all tables filled from their result files."""
    return MARKED.sub(lambda found: f"{found[1]}{table(found[2])}{found[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
