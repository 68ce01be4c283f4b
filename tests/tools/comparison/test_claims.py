"""Claims about groups of configurations: differences by hand, verdicts, and how they are shown."""

import json
import math

import pytest

from tests.tools.comparison.made_studies import AP, cells, made_row, read, write_runs, write_study
from tools.comparison.claims import Claim, read_claims
from tools.comparison.study import read_study
from util.errors import UserError
from util.schema import InvalidValue

# By seed. Mean of a and b: 1.5, 2.5, 6; that of c and d: 1, 1, 3; differences 0.5, 1.5, 3.
VALUES = {
    "a": {1: 1.0, 2: 2.0, 3: 4.0},
    "b": {1: 2.0, 2: 3.0, 3: 8.0},
    "c": {1: 0.0, 2: 1.0, 3: 1.0},
    "d": {1: 2.0, 2: 1.0, 3: 5.0},
}


def verdict_of(better: str, worse: str, values=VALUES, higher: bool = True) -> str:
    return Claim("x", tuple(better), tuple(worse)).row(values, higher)["verdict"]


def test_the_difference_of_two_groups_by_hand():
    """4.302653 is t of 2 degrees at 97.5 %; deviation of 0.5, 1.5, 3: sqrt(19 / 12)."""
    row = Claim("ab beat cd", ("a", "b"), ("c", "d")).row(VALUES, True)
    mean, std = 5 / 3, math.sqrt(19 / 12)
    half = 4.302653 * std / math.sqrt(3)
    assert row["differences"] == {"1": 0.5, "2": 1.5, "3": 3.0}
    assert row["difference"] == pytest.approx(
        {"count": 3, "mean": mean, "std": std, "low": mean - half, "high": mean + half}, abs=1e-6
    )
    assert (row["text"], row["better"], row["worse"]) == ("ab beat cd", ["a", "b"], ["c", "d"])
    assert row["verdict"] == "not shown"  # mean - half is below 0


def test_verdicts():
    near = {"up": {1: 1.1, 2: 2.1, 3: 3.11}, "low": {1: 1.0, 2: 2.0, 3: 3.0}}
    row = lambda *groups, higher=True: Claim("x", *groups).row(near, higher)["verdict"]  # noqa: E731
    assert row(("up",), ("low",)) == "shown"
    assert row(("low",), ("up",)) == "contradicted"
    assert row(("up",), ("low",), higher=False) == "contradicted"  # of a loss
    assert row(("low",), ("up",), higher=False) == "shown"
    one = {name: {1: by_seed[1]} for name, by_seed in near.items()}
    assert verdict_of(["up"], ["low"], one) == "not shown"  # one seed has no interval


def test_a_seed_counts_where_all_configurations_have_it():
    values = {name: dict(by_seed) for name, by_seed in VALUES.items()}
    del values["b"][1]
    values["d"][3] = None
    row = Claim("x", ("a", "b"), ("c", "d")).row(values, True)
    assert row["differences"] == {"2": 1.5}
    near = {"up": {1: 1.1, 2: 2.1, 3: 3.11}, "low": {1: 1.0, 2: 2.0, 3: 3.0, 4: math.nan}}
    row = Claim("x", ("up",), ("low",)).row(near, True)
    assert row["difference"]["low"] > 0 and row["verdict"] == "not shown"  # a run has diverged
    near["low"][4] = None
    assert Claim("x", ("up",), ("low",)).row(near, True)["verdict"] == "not shown"  # unfinished
    del near["low"][4]
    assert Claim("x", ("up",), ("low",)).row(near, True)["verdict"] == "shown"


CLAIMS = '[[claims]]\ntext = "Boxes help."\nbetter = ["box"]\nworse = ["none"]\n'
SIZES = ("thresholds = [0.5]", "thresholds = [0.5]\nimage_sizes = [400]")


def test_claims_are_in_the_table_and_in_the_json(tmp_path):
    large = CLAIMS.replace("help", "help more").replace("text", "size = 400\ntext")
    path = write_study(tmp_path, SIZES, ("[configurations]", f"{CLAIMS}{large}[configurations]"))
    root = write_runs(tmp_path / "out", path)
    for name, by_seed in AP.items():
        for seed, scores in by_seed.items():
            folder = root / name / f"seed_{seed}" / "evaluated" / "size_400"
            folder.mkdir(parents=True)
            numbers = made_row(2, scores[-1] - (0.3 if name == "box" else 0.0))
            content = {"of": made_row(2, scores[-1]), "numbers": numbers}
            (folder / "numbers.json").write_text(json.dumps(content))
    out, content = read(path, root)
    table = cells(out.split("\n\n", 1)[1])
    assert table["claim"] == ["seeds", "difference", "its interval", "verdict"]
    assert table["Boxes help."] == ["3", "+0.1000", "0.0752 .. 0.1248", "shown"]
    assert table["Boxes help more."] == ["3", "-0.2000", "-0.2248 .. -0.1752", "contradicted"]
    first, second = content["claims"]
    assert (first["verdict"], second["verdict"]) == ("shown", "contradicted")
    assert (first["size"], second["size"]) == (None, 400)
    assert "Boxes help more." in (root / "comparison.html").read_text()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"better": ["bax"]}, r"claims\[0\]: 'bax' is none of configurations"),
        ({"better": ["none"]}, r"claims\[0\] names 'none' twice"),
        ({"worse": []}, r"claims\[0\]\['worse'\] has 0 entries"),
        ({"than": 3}, r"claims\[0\] has 'than'; its keys are text, better, worse and size"),
        ({"size": 9}, r"claims\[0\]: size 9 is none of image_sizes"),
        ({"text": 3}, r"claims\[0\]\['text'\] is 3, not a string"),
    ],
)
def test_claims_that_are_refused(changes, says):
    claim = {"text": "x", "better": ["box"], "worse": ["none"], **changes}
    with pytest.raises(InvalidValue, match=says):
        read_claims([claim], ["box", "none"], [400])


def test_a_wrong_claim_names_the_file(tmp_path):
    wrong = CLAIMS.replace('["box"]', '"box"')
    path = write_study(tmp_path, ("[configurations]", f"{wrong}[configurations]"))
    with pytest.raises(UserError, match=r"study\.toml: claims\[0\]\['better'\] is 'box', not a li"):
        read_study(path)
