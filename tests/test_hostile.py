"""Hostile and broken inputs: each gets one line, and nothing outside of its folder is touched.

Every case is a whole run of main.py, in this process. The table of what was said is printed at
the end of the tests.
"""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import MAIN, TINY_RUN, answer_of_main, make_shapes, run_ok
from hostile_cases import case
from hostile_checkpoints import CHECKPOINTS
from hostile_data import DATA

# name: (makes a folder unusable, what the answer has to contain)
OUTPUTS = {}


@case(OUTPUTS, "the output folder is a file", "--output_dir")
def _(out):
    out.write_text("")


@case(OUTPUTS, "a folder in a file", "--output_dir")
def _(out):
    out.write_text("")
    return out / "inside"


@case(OUTPUTS, "a name of 300 letters", "--output_dir")
def _(out):
    return out / ("a" * 300)


@case(OUTPUTS, "checkpoint.pth cannot be replaced", "cannot write the checkpoint")
def _(out):
    """It is made a folder once the run has looked at what is there."""
    (out / ".checkpoint.pth.part").mkdir(parents=True)


def mounted(name: str, says: str, options: str) -> None:
    @case(OUTPUTS, name, says)
    def mount(out):
        out.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", out], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"cannot mount a file system of its own: {done.stderr.strip()}")


mounted("a full disk", r"cannot write the checkpoint \(.*No space left", "size=2m")
mounted("a file system that is read-only", "--output_dir .*cannot be written to", "ro")


# ---- the tests ----


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with good data, a run's checkpoint, and files that nobody may touch."""
    root = tmp_path_factory.mktemp("hostile")
    make_shapes(root / "data", "--train", "4", "--val", "2", "--size", "64")
    run_ok(MAIN, *TINY_RUN, "--coco_path", root / "data", "--output_dir", root / "run",
           "--epochs", "1")  # fmt: skip
    (root / "outside").mkdir()
    shutil.copy(next((root / "data" / "train2017").iterdir()), root / "outside" / "secret.jpg")
    return root


def fingerprint(*roots: Path) -> dict[str, str]:
    """Every file below, with a hash of its content."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for root in roots
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def check(record_property, tmp_path):
    """check(name, says, line): is the answer right? Adds it to the table at the end."""

    def compare(name: str, says: str, line: str) -> None:
        assert re.search(says, line), line
        assert len(line) < 1000
        record_property("answer", (name, line.replace(str(tmp_path), "…")))

    return compare


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint(name, place, check, tmp_path):
    write, says = CHECKPOINTS[name]
    good = torch.load(place / "run" / "checkpoint.pth", weights_only=False)
    path = tmp_path / "stranger.pth"
    write(path, good, place / "outside")
    before = fingerprint(place)
    line = answer_of_main("--coco_path", place / "data", "--resume", path, "--epochs", "2",
                  "--output_dir", tmp_path / "out")  # fmt: skip
    assert fingerprint(place) == before
    assert [found.name for found in (tmp_path / "out").rglob("*")] == []
    check(name, says, line)


@pytest.mark.parametrize("name", DATA)
def test_data(name, place, check, tmp_path):
    write, says = DATA[name]
    data = tmp_path / "folder" / "data"
    shutil.copytree(place / "data", data)
    outside = shutil.copytree(place / "outside", tmp_path / "folder" / "outside")
    write(data, outside)
    before = fingerprint(place, outside)
    line = answer_of_main("--coco_path", data, "--epochs", "1")
    assert fingerprint(place, outside) == before
    check(name, says, line)


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_folder(name, place, check, tmp_path):
    write, says = OUTPUTS[name]
    out = tmp_path / "out"
    wanted = write(out) or out
    before = fingerprint(place)
    try:
        line = answer_of_main(
            "--coco_path", place / "data", "--epochs", "1", "--output_dir", wanted
        )
    finally:
        if out.is_mount():
            subprocess.run(["umount", out], check=True)
    assert fingerprint(place) == before
    check(name, says, line)


def test_there_are_enough():
    assert len(CHECKPOINTS) + len(DATA) + len(OUTPUTS) >= 60
