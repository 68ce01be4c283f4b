"""Command lines as a user types them, run in processes of their own or in this one."""

import functools
import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.forks import default_signals
from tests.helpers.warm_python import WarmPython

ROOT = Path(__file__).resolve().parents[2]
MAIN = str(ROOT / "main.py")
RPE = "rpe-2.0-product-ctx-1-k"
TINY_MODEL = [
    "--backbone", "resnet10", "--backbone_weights", "none", "--hidden_dim", "32", "--nheads", "4",
    "--enc_layers", "2", "--dec_layers", "2", "--dim_feedforward", "64", "--num_queries", "8",
    "--enc_rpe2d", RPE,
]  # fmt: skip
TINY_RUN = [*TINY_MODEL, "--device", "cpu", "--image_size", "64", "--num_workers", "0"]
LIMIT_S = 60  # of `answer_of_main`, whose runs must fail at once

# One thread a process, and no warning that the operators were not compiled.
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore:rpe_ops runs on:RuntimeWarning"}

# Prefixes of environment variables that Python and its libraries read as they start.
READ_AT_START = ("PYTHON", "OMP_", "TRITON_", "MALLOC_", "GLIBC_", "LD_")


@functools.cache
def warm_python() -> WarmPython:
    """Return the server that this test process shares."""
    return WarmPython({**os.environ, **QUIET})


def run(*command: str, timeout: int = 300, cwd: Path = ROOT, env: dict | None = None):
    """Run a Python command line from the repository's root, and capture its output as text.

    Args:
        command: a script, or -m and a module, or -c and code, with options.
        env: changes to the environment.
    """
    command = [str(word) for word in command]
    environment = {**os.environ, **QUIET, **(env or {})}
    starts_anew = command[0] == "-c" or any(name.startswith(READ_AT_START) for name in env or {})
    if not starts_anew:
        return warm_python().run(command, cwd, environment, timeout)
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=timeout, preexec_fn=default_signals,
    )  # fmt: skip


def run_ok(*command: str, **options) -> subprocess.CompletedProcess:
    """Run a command that must succeed."""
    result = run(*command, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def error_line(*command: str, **options) -> str:
    """Run a command that must fail with a single line on stderr; returns that line."""
    result = run(*command, **options)
    assert result.returncode != 0, result.stdout
    assert "Traceback" not in result.stdout + result.stderr, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def answer_of_main(*options: str) -> str:
    """Run main.py with TINY_RUN in this process; it must fail with one line, which is returned.

    A process of its own would take 3 s more.
    """
    from main import get_args_parser, main
    from util.cli import OneLineParser, options_given, run_command

    def too_long(*_):
        raise TimeoutError(f"more than {LIMIT_S} s: it hangs")

    parser = OneLineParser(prog="main.py", parents=[get_args_parser()])
    stderr, real = io.StringIO(), sys.stderr
    before = signal.signal(signal.SIGALRM, too_long)
    limit_of_the_test = signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    sys.stderr = stderr
    try:
        with pytest.raises(SystemExit) as stop:
            command = [*TINY_RUN, *map(str, options)]
            args = parser.parse_args(command)
            args.given = options_given(parser, command)
            run_command(lambda: main(args))
    finally:
        sys.stderr = real
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *limit_of_the_test)
    assert stop.value.code in (1, 2)
    lines = stderr.getvalue().strip().splitlines()
    assert len(lines) == 1 and "error: " in lines[0], lines
    return lines[0]


_held_ports: list[socket.socket] = []


def free_port() -> int:
    """Return a port that stays reserved while the tests run: it is bound, but not listened on.

    Linux lets a server that sets SO_REUSEADDR listen on it all the same, as most servers do.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    _held_ports.append(held)
    return held.getsockname()[1]
