"""The page of a study, in a real browser."""

import re

import pytest

from tests.tools.comparison.made_studies import AP, write_runs, write_study
from tools.comparison.found_runs import find_runs
from tools.comparison.report import write_report
from tools.comparison.results import Results
from tools.comparison.study import read_study
from tools.run_curves.charts import run_colours

pytestmark = pytest.mark.browser
EVIL = "<b>x</b></script><script>broken()</script>"


@pytest.fixture
def study(tmp_path):
    return write_study(
        tmp_path,
        ("made up", EVIL),
        ('box = "--dec_rpe box-log"', 'box = "--dec_rpe box-log"\nlate = "--lr 1e-3"'),
    )


def page_of(study, root, open_page):
    found = read_study(study)
    write_report(Results(found, find_runs(found, root)), root, ["compare.py"])
    return open_page(root / "comparison.html")


def all_of(page, selector: str) -> list:
    return page.find_elements("css selector", selector)


def number(element, name: str) -> float:
    return float(element.get_attribute(name))


def test_the_page_of_a_study(study, tmp_path, open_page):
    root = write_runs(tmp_path / "out", study, {**AP, "late": {1: (0.1, 0.2, 0.6)}})
    page = page_of(study, root, open_page)
    assert page.title == EVIL and all_of(page, "h1")[0].text == EVIL
    rows = [[cell.text for cell in row.find_elements("css selector", "th, td")]
            for row in all_of(page, "#table tr")]  # fmt: skip
    assert [row[0] for row in rows] == ["configuration", "none", "box", "late"]
    assert rows[2][5:8] == ["+0.1000", "0.0752 .. 0.1248", "better"]
    assert [cell.text for cell in all_of(page, "#table td.better")] == ["better"]
    notes = [note.text for note in all_of(page, "#notes li")]
    assert notes[0] == "late, seed 2: not started; not in the table" and len(notes) == 4

    # Differences: where the scale has 0 and 0.1, dots and intervals have to be.
    _, box, late = run_colours(3)
    ticks = {tick.text: number(tick, "x") for tick in all_of(page, "#differences .tick")}
    (zero,) = all_of(page, "#differences .zero")
    assert number(zero, "x1") == pytest.approx(ticks["0"])
    place = lambda value: ticks["0"] + (ticks["0.1"] - ticks["0"]) * value / 0.1  # noqa: E731
    means = {dot.get_attribute("fill"): number(dot, "cx")
             for dot in all_of(page, "#differences .mean")}  # fmt: skip
    assert means == pytest.approx({box: place(0.1), late: place(0.1)})
    (line,) = all_of(page, "#differences .interval")
    assert line.get_attribute("stroke") == box
    assert number(line, "x1") == pytest.approx(place(0.0751586), abs=0.01)
    assert number(line, "x2") == pytest.approx(place(0.1248414), abs=0.01)
    dots = [number(dot, "cx") for dot in all_of(page, "#differences .seed")]
    assert dots == pytest.approx([place(x) for x in (0.1, 0.09, 0.11, 0.1)])
    words = [text.text for text in all_of(page, "#differences .name")]
    assert words == ["box", "better", "late", "not shown"]


def test_curves_are_means_with_bands(study, tmp_path, open_page):
    root = write_runs(tmp_path / "out", study)
    page = page_of(study, root, open_page)
    charts = all_of(page, ".chart")
    titles = [chart.find_element("tag name", "h3").text for chart in charts]
    assert titles == ["AP of boxes", "loss in training", "loss in validation"]
    bands, curves = (charts[0].find_elements("css selector", s) for s in (".band", ".curve"))
    none, box, _ = run_colours(3)
    assert [band.get_attribute("fill") for band in bands] == [none, box]
    points = [
        [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]
        for path in (bands[1].get_attribute("d"), curves[1].get_attribute("d"))
    ]
    # Of box: highest 0.5, 0.6, 0.65, then back along the lowest 0.6, 0.5, 0.2; means between.
    (y0, y1) = points[0][0][1], points[0][5][1]  # of 0.5 and 0.2
    height = lambda ap: y0 + (y1 - y0) * (0.5 - ap) / 0.3  # noqa: E731
    wanted = [height(ap) for ap in (0.5, 0.6, 0.65, 0.6, 0.5, 0.2)]
    assert [y for _, y in points[0]] == pytest.approx(wanted, abs=0.05)
    wanted = [height(ap) for ap in (0.3, 1.7 / 3, 0.62)]
    assert [y for _, y in points[1]] == pytest.approx(wanted, abs=0.05)


def test_a_page_without_numbers_and_without_a_network(study, tmp_path, open_page):
    root = write_runs(tmp_path / "out", study, {"box": {1: (0.1,)}})
    page = page_of(study, root, open_page)
    assert "No two finished runs share a seed." in all_of(page, "#differences")[0].text
    assert all_of(page, ".chart") == [] and len(all_of(page, "#notes li")) == 11
    written = (root / "comparison.html").read_text()
    assert set(re.findall(r"\w+://[^\s\"'<]+", written)) == {"http://www.w3.org/2000/svg"}
    assert len(all_of(page, "b")) == 0 and len(all_of(page, "script")) == 2
