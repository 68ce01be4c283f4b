"""Hostile and broken checkpoints: each gets one line, and nothing outside of its folder is touched.

The table of what was said is printed at the end of the tests.
"""

import pytest
import torch
from conftest import answer_of_main
from hostile_cases import fingerprint
from hostile_checkpoints import CHECKPOINTS


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
