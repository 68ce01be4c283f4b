"""HTML pages that hold all they need in one file: styles, scripts and data."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parent


def render_page(
    folder: Path,
    title: str,
    data: Any,
    scripts: Sequence[str] = ("page.js",),
    styles: Sequence[Path] = (),
) -> str:
    """Return a page made of the shared frame, style and script, and those of a folder.

    Args:
        folder: holds body.html, in which {{title}} is replaced, page.css and the scripts.
        title: of the page, as plain text.
        data: what the scripts find as `data`: anything that JSON can hold, without NaN.
        scripts: in the order in which they run, after the shared one.
        styles: of another page, between the shared one and the folder's.
    """
    # "<" is all that could end the script element that the JSON is in.
    content = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    title = html.escape(title)
    return _fill(
        SHARED / "frame.html",
        title=title,
        style="".join(map(_read, (SHARED / "common.css", *styles, folder / "page.css"))),
        body=_fill(folder / "body.html", title=title),
        data=content,
        script="\n".join(map(_read, (SHARED / "common.js", *(folder / name for name in scripts)))),
    )


def _fill(template: Path, **parts: str) -> str:
    """Replace each {{name}} of a template, in one pass: a part may itself hold {{name}}."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read(template))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
