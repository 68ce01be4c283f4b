"""Studies that are kept: their files are studies, and their pages say what was measured."""

import json
import re
import tomllib

import pytest

from tests.helpers.commands import ROOT
from tools.comparison.study import read_study

STUDIES = sorted(path.parent for path in (ROOT / "studies").glob("*/study.toml"))
KEPT = [folder for folder in STUDIES if (folder / "results.json").exists()]
name_of = {"ids": lambda folder: folder.name}


def test_there_are_studies():
    assert {"dec_rpe", "small"} <= {folder.name for folder in STUDIES} and KEPT


@pytest.mark.parametrize("folder", STUDIES, **name_of)
def test_the_file_is_a_study_and_says_how_to_run_it(folder):
    read_study(folder / "study.toml")
    head = (folder / "study.toml").read_text().split("title =")[0]
    assert f"tools/compare.py studies/{folder.name}/study.toml" in head
    if folder.name != "small":
        page = (folder / "README.md").read_text()
        assert f"tools/compare.py studies/{folder.name}/study.toml" in page


@pytest.mark.parametrize("folder", KEPT, **name_of)
def test_results_are_of_the_study(folder):
    """All of its runs are there, of at least five seeds, and it is known what they ran on."""
    results = json.loads((folder / "results.json").read_text())
    assert results["study"] == tomllib.loads((folder / "study.toml").read_text())
    assert results["versions"]["torch"] and results["cpu"] and results["date"]
    assert f"studies/{folder.name}/study.toml" in results["command"]
    seeds = results["study"]["seeds"]
    assert len(seeds) >= 5
    runs = {(run["configuration"], run["seed"]) for run in results["runs"]}
    assert runs == {(name, seed) for name in results["study"]["configurations"] for seed in seeds}
    assert {run["state"] for run in results["runs"]} == {"finished"}


@pytest.mark.parametrize("folder", KEPT, **name_of)
def test_the_page_says_each_claim_with_its_numbers(folder):
    results = json.loads((folder / "results.json").read_text())
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (folder / "README.md").read_text().splitlines()
        if line.startswith("|")
    ]
    decimals = 3 if results["metric"].startswith("test_coco") else 1
    for claim in results.get("claims", []):
        found = claim["difference"]
        numbers = [f"{found[key]:+.{decimals}f}" for key in ("mean", "low", "high")]
        row = [claim["text"], numbers[0], f"{numbers[1]} to {numbers[2]}", claim["verdict"]]
        assert row in rows, row


@pytest.mark.parametrize("folder", KEPT, **name_of)
def test_pictures_of_the_page_exist(folder):
    for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (folder / "README.md").read_text()):
        assert (folder / path).is_file(), path
