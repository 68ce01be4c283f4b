"""Run pytest in forks of a process that has imported PyTorch, but no module of the project."""

import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import NamedTuple

from tests.helpers.warm_python import LIBRARIES

QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore:rpe_ops runs on:RuntimeWarning"}


def import_libraries() -> None:
    """Import what all forks need."""
    # As tests/conftest.py does, which comes too late: Triton reads this when it is imported.
    if not importlib.import_module("torch").cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    for name in (*LIBRARIES, "pytest"):
        importlib.import_module(name)
    gc.freeze()  # or collecting would copy all pages in each fork


class Outcome(NamedTuple):
    """The outcome of a run of pytest.

    Attributes:
        code: pytest's exit code; negative if a signal killed it.
        failed: the tests that failed.
        seconds: how long they took.
        output: what pytest printed.
    """

    code: int
    failed: list[str]
    seconds: float
    output: str


class Recorder:
    """A pytest plugin that records which tests failed."""

    def __init__(self):
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self.failed.append(report.nodeid.removeprefix("tests/"))


def path_of(test: str) -> str:
    """Return the path below the current folder of "test_file.py::test"."""
    file, colons, name = test.partition("::")
    (path,) = Path("tests").rglob(file)
    return f"{path}{colons}{name}"


class Fork:
    """pytest in a fork of this process, which has PyTorch but no module of the project.

    Args:
        folder: a copy of the project.
        tests: as the tables name them.
        first_failure: stop at the first failure.
    """

    def __init__(self, folder: Path, tests: str, first_failure: bool):
        self.scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        self.start = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            with contextlib.suppress(BaseException):
                code = self._run(folder, tests, first_failure)
            os._exit(code)

    def _run(self, folder: Path, tests: str, first_failure: bool) -> int:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        with (self.scratch / "output").open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.update(QUIET, TMPDIR=str(self.scratch))
        tempfile.tempdir = None
        # Spawned processes would import the main module.
        sys.modules["__main__"] = types.ModuleType("__main__")
        sys.path[0] = str(folder)
        # Helpers have to be imported from the copy, not from this checkout.
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        import pytest

        recorder = Recorder()
        options = ["-q", "-p", "no:cacheprovider", f"--basetemp={self.scratch / 'pytest'}"]
        options += ["-x"] if first_failure else []
        names = [path_of(test) for test in tests.split()]
        code = pytest.main([*options, *names], plugins=[recorder])
        (self.scratch / "failed").write_text(json.dumps(recorder.failed))
        sys.stdout.flush()
        return int(code)

    def outcome(self, limit_s: float) -> Outcome | None:
        """Return the outcome, None while it runs; after `limit_s` seconds the run is killed."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        seconds = time.monotonic() - self.start
        if pid == 0 and seconds < limit_s:
            return None
        self.kill()
        if pid == 0:
            _, status = os.waitpid(self.pid, 0)
        failed = self.scratch / "failed"
        output = self.scratch / "output"
        found = Outcome(
            os.waitstatus_to_exitcode(status),
            json.loads(failed.read_text()) if failed.exists() else [],
            seconds,
            output.read_text(errors="replace") if output.exists() else "",
        )
        shutil.rmtree(self.scratch, ignore_errors=True)
        return found

    def kill(self) -> None:
        """Kill the run with all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def wait_for(fork: Fork, limit_s: float) -> Outcome:
    try:
        while (outcome := fork.outcome(limit_s)) is None:
            time.sleep(0.02)
        return outcome
    finally:
        fork.kill()
