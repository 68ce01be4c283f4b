"""Command-line tools run in this process: seconds less than in one of their own."""

import contextlib
import io
import sys
from types import ModuleType
from typing import NamedTuple
from unittest import mock

from util.cli import run_command


class Run(NamedTuple):
    """What a tool has left: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


def run_tool(tool: ModuleType, *given: object, encoding: str = "utf-8") -> Run:
    """Run a tool's `main` with these arguments.

    Args:
        encoding: of its stdout.
    """
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
    """The one line on stderr of a run that must fail."""
    run = run_tool(tool, *given)
    assert run.code in (1, 2), run
    (line,) = run.err.strip().splitlines()
    return line
