"""What git has of the project, and the package that is built of it."""

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT

BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])('dist')"


@pytest.fixture(scope="session")
def project_files() -> list[str]:
    """Return the names of all files that git has, or will have."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        names = listed.stdout.split("\0")[:-1]
    else:  # a copy of the project
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]
    left_out = re.compile(r"(.*/)?(__pycache__|\.pytest_cache|\.ruff_cache|build)/|.*\.(so|pyc)$")
    return [name for name in names if (ROOT / name).is_file() and not left_out.match(name)]


@pytest.fixture(scope="session")
def clean_copy(project_files, tmp_path_factory) -> Path:
    """Copy what git has."""
    copy = tmp_path_factory.mktemp("clean") / "project"
    for name in project_files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def wheel(clean_copy, tmp_path_factory) -> Path:
    """Build a source distribution of a clean copy, and of that a wheel, as `pip install` does."""
    folder = tmp_path_factory.mktemp("built")
    _build("build_sdist", clean_copy)
    (archive,) = (clean_copy / "dist").iterdir()
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    _build("build_wheel", unpacked)
    (built,) = (unpacked / "dist").iterdir()
    return built


def _build(what: str, project: Path) -> None:
    command = [sys.executable, "-c", BUILD, what]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
