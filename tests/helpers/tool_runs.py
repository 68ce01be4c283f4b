"""Command-line tools run in this process, which saves seconds."""

import contextlib
import io
import re
import sys
from types import ModuleType
from typing import NamedTuple
from unittest import mock

from util.cli import run_command


class Run(NamedTuple):
    """Exit code, stdout and stderr of a tool."""

    code: int
    out: str
    err: str


def run_tool(tool: ModuleType, *given: object, encoding: str = "utf-8") -> Run:
    """Run a tool's `main` with these arguments, its stdout in the given encoding."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding), io.StringIO()
    argv = [tool.__name__, *map(str, given)]
    code = 0
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run_command(tool.main)
        except SystemExit as stop:
            code = int(stop.code or 0)
    out.flush()
    return Run(code, out.buffer.getvalue().decode(encoding), err.getvalue())


def line_of(tool: ModuleType, *given: object) -> str:
    """Run a tool that must fail with one line on stderr; returns the line."""
    run = run_tool(tool, *given)
    assert run.code in (1, 2), run
    (line,) = run.err.strip().splitlines()
    return line


def result_lines(text: str) -> list[str]:
    """Return the lines of tools/check_data.py that do not show its progress."""
    return [line for line in text.splitlines() if not re.search(r"images  \d+/\d+ ", line)]
