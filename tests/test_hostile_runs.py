"""Folders that a run cannot write to: each gets one line, and nothing outside of it is touched.

The table of what was said is printed at the end of the tests.
"""

import subprocess

import pytest
from conftest import answer_of_main
from hostile_cases import case, fingerprint

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


@case(OUTPUTS, "checkpoint.pth cannot be replaced", r"checkpoint.pth: cannot be written \(")
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


mounted("a full disk", r"checkpoint.pth: cannot be written \(No space left", "size=2m")
mounted("a file system that is read-only", "--output_dir .*cannot be written to", "ro")


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
