"""Put small mistakes into a copy of the project, one at a time; a fast test has to notice each.

    python -m tests.mutants [WORD ...] [--jobs N]

Mistakes stand in the tables beside this file, each as

    (name, file, old text, new text, "test_file.py::test" or several with spaces between)

The old text occurs exactly once in the file. With words, only the mistakes are tried whose name,
file or tests have one of them. Exit code 1 unless all mistakes are caught.
"""

import argparse
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.mutants.forked_pytest import Fork, Outcome, import_libraries, wait_for

ROOT = Path(__file__).resolve().parents[2]
TABLES = (
    "models", "attention", "encodings", "fused", "operators", "training", "data", "inference",
    "classification", "classifier_runs", "box_bias", "comparison", "progress", "tools",
)  # fmt: skip
LIMIT_S = 300  # for the tests of one mistake; a machine may be busy
TESTS_FAILED = 1  # of pytest's exit codes; the others say that tests could not be run


class Mutant(NamedTuple):
    """A mistake, and which tests have to notice it (files by their names alone)."""

    name: str
    file: str
    old: str
    new: str
    tests: str


def all_mutants() -> list[Mutant]:
    """Return the mistakes of all tables.

    Raises:
        ValueError: two mistakes have the same name.
    """
    rows = [
        Mutant(*row)
        for table in TABLES
        for row in importlib.import_module(f"tests.mutants.{table}").MUTANTS
    ]
    names = [mutant.name for mutant in rows]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"more than one mistake is called {', '.join(sorted(twice))}")
    return rows


def problem_of(mutant: Mutant) -> str:
    """Return why a mistake cannot be put in; empty if it can."""
    path = ROOT / mutant.file
    if not path.is_file():
        return f"stale: there is no {mutant.file}"
    count = path.read_text().count(mutant.old)
    if count != 1:
        return f"stale: its old text is {count} times in {mutant.file}, not once"
    return "" if mutant.old != mutant.new else "old and new text are the same"


def copy_project(folder: Path) -> Path:
    """Copy the files that git knows, and the compiled operators."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    built = [str(path.relative_to(ROOT)) for path in (ROOT / "rpe_ops").glob("*.so")]
    for name in {*listed, *built}:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


class Slot:
    """A copy of the project that has one mistake at a time."""

    def __init__(self, folder: Path):
        self.folder = copy_project(folder)
        self.mutant: Mutant | None = None
        self._count = 0

    def begin(self, mutant: Mutant) -> None:
        self.mutant = mutant
        path = self.folder / mutant.file
        self._content, self._stat = path.read_bytes(), path.stat()
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
        # Python tells by a file's second and size whether it has compiled it before.
        self._count += 1
        os.utime(path, (self._count, self._count))
        self._fork = Fork(self.folder, mutant.tests, first_failure=True)

    def kill(self) -> None:
        self._fork.kill()

    def outcome(self) -> Outcome | None:
        found = self._fork.outcome(LIMIT_S)
        if found is not None:
            path = self.folder / self.mutant.file
            path.write_bytes(self._content)
            os.utime(path, ns=(self._stat.st_atime_ns, self._stat.st_mtime_ns))
        return found


def verdict(outcome: Outcome, failing_without: set[str]) -> tuple[bool, str]:
    """Return whether a mistake was caught, and by which test, or what went wrong."""
    if outcome.code == -signal.SIGKILL:
        return False, f"HANGS: no answer within {LIMIT_S} s"
    if outcome.code == 0:
        return False, "NOT CAUGHT: all tests pass"
    if outcome.code != TESTS_FAILED or not outcome.failed:
        said = [line for line in outcome.output.splitlines() if line.strip()][-3:]
        return False, f"NOT RUN: pytest ended with {outcome.code}: {' / '.join(said)}"
    if outcome.failed[0] in failing_without:
        return False, f"FAILS WITHOUT IT, TOO: {outcome.failed[0]}"
    return True, outcome.failed[0]


def show(mutant: Mutant, told: str, seconds: float) -> None:
    print(f"{mutant.name:<58} {mutant.file:<38} {seconds:5.1f} s  {told}", flush=True)


def try_all(mutants: list[Mutant], jobs: int, folder: Path) -> int:
    """Try the mistakes and print the outcome of each; returns how many were caught."""
    slots = []
    for number in range(jobs):
        (folder / str(number)).mkdir()
        slots.append(Slot(folder / str(number)))
    tests = " ".join(dict.fromkeys(" ".join(m.tests for m in mutants).split()))
    print(f"without a mistake: {len(tests.split())} selections of tests", flush=True)
    clean = wait_for(Fork(slots[0].folder, tests, first_failure=False), 20 * LIMIT_S)
    if clean.code not in (0, TESTS_FAILED):
        print(clean.output)
        raise SystemExit("the tests cannot be run without a mistake; see above")
    for name in clean.failed:
        print(f"FAILS WITHOUT A MISTAKE: {name}")
    print(f"without a mistake: {clean.seconds:.1f} s, {len(clean.failed)} failed", flush=True)
    waiting, running, caught = list(mutants), [], 0
    try:
        while waiting or running:
            while waiting and len(running) < len(slots):
                slot = next(slot for slot in slots if slot not in running)
                slot.begin(waiting.pop(0))
                running.append(slot)
            for slot in list(running):
                outcome = slot.outcome()
                if outcome is not None:
                    is_caught, told = verdict(outcome, set(clean.failed))
                    caught += is_caught
                    show(slot.mutant, told, outcome.seconds)
                    running.remove(slot)
            time.sleep(0.02)
    finally:
        for slot in running:
            slot.kill()
    return caught


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="of the mistakes to try")
    parser.add_argument("--jobs", type=int, default=1, help="mistakes that are tried at a time")
    args = parser.parse_args()
    mutants = all_mutants()
    if args.words:
        mutants = [m for m in mutants if any(word in " ".join(m) for word in args.words)]
    problems = {mutant: problem_of(mutant) for mutant in mutants}
    usable = [mutant for mutant in mutants if not problems[mutant]]
    import_libraries()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which removes the copies
    start = time.monotonic()
    caught = 0
    if usable:
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            caught = try_all(usable, max(args.jobs, 1), Path(folder))
    for mutant, problem in problems.items():
        if problem:
            show(mutant, problem.upper()[:5] + problem[5:], 0)
    print(f"{caught} of {len(mutants)} caught in {time.monotonic() - start:.0f} s")
    return 0 if mutants and caught == len(mutants) else 1


if __name__ == "__main__":
    raise SystemExit(main())
