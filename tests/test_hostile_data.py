"""Hostile and broken data sets: each gets one line, and nothing outside of its folder is touched.

The table of what was said is printed at the end of the tests.
"""

import shutil

import pytest
from conftest import answer_of_main
from hostile_cases import fingerprint
from hostile_data import DATA


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
