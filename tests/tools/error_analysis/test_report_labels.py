"""The report's pictures in a browser: labels lie inside, surer detections on top, low scores."""

import json

import pytest

from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.tool_runs import run_tool
from tests.tools.error_analysis.report_pages import data_of, page_of
from tools import error_report
from tools.error_analysis.summary import ErrorSummary

# (left, top, right, bottom) of each label of a picture in its own pixels, with the picture's size.
LABELS = """return [...document.querySelectorAll(".card .side svg")].map((picture) =>
  [picture.viewBox.baseVal.width, picture.viewBox.baseVal.height,
   ...[...picture.querySelectorAll("text")].map((label) => { const box = label.getBBox();
     return [box.x, box.y, box.x + box.width, box.y + box.height]; })])"""
ORDER = """return [...document.querySelectorAll(".card .side:last-child svg")].map((picture) =>
  [...picture.querySelectorAll("rect title")].map((title) => title.textContent))"""


@pytest.mark.browser
def test_labels_lie_inside_and_surer_boxes_on_top(shapes, tmp_path, open_page):
    """Of detections at all edges, in no order of scores; one has a long name."""
    names = [{"id": i, "name": f"class {i}" + " and more words" * (i == 2)} for i in range(1, 6)]
    corners = [(x, y) for x in (-20, 30, 70) for y in (-20, 30, 70)]
    scores = [0.6, 0.9, 0.7, 0.95, 0.65, 0.8, 0.55, 0.85, 0.75]

    def everywhere(index, label, box):
        return [(1 + i % 5, [x, y, 30, 30], score)
                for i, ((x, y), score) in enumerate(zip(corners, scores, strict=True))]  # fmt: skip

    page_of(shapes, tmp_path / "page.html", everywhere, names, most=3)
    driver = open_page(tmp_path / "page.html")
    pictures = driver.execute_script(LABELS)
    assert len(pictures) == 6 and sum(map(len, pictures)) > 30
    for width, height, *labels in pictures:
        for left, top, right, bottom in labels:
            assert left >= -0.5 and right <= width + 0.5
            assert top >= -3 and bottom <= height + 3  # room for letters with strokes below
    for titles in driver.execute_script(ORDER):
        false = [float(title.split(": ")[0].split()[-1]) for title in titles
                 if not title.endswith(": correct")]  # fmt: skip
        assert len(false) > 3 and false == sorted(false)


def low(index, label, box):
    return [(label, box, score) for score in (0.05, 0.3, 0.1, 0.2)]


@pytest.mark.browser
def test_the_best_are_dashed_where_no_score_reaches_the_threshold(shapes, tmp_path, open_page):
    page_of(shapes, tmp_path / "page.html", low, most=13)
    data = data_of(tmp_path / "page.html")
    assert "No score reaches 0.5" in data["notes"]["images"]
    shown = [card["found"] for card in data["cards"] if card["found"]]
    assert shown and all(len(found) == 3 for found in shown)
    assert {entry["kind"] for found in shown for entry in found} == {-1}
    assert max(entry["score"] for entry in shown[0]) == pytest.approx(0.3)
    driver = open_page(tmp_path / "page.html")
    titles = [title for picture in driver.execute_script(ORDER) for title in picture]
    assert titles and all(title.endswith(" < 0.5") for title in titles)
    dashed = driver.find_elements("css selector", ".side:last-child .uncounted")
    assert len(dashed) == len(titles)


def test_the_command_says_which_threshold_to_try(args, shapes, tmp_path):
    """And the best detection is that of a search through all."""
    path = write_checkpoint(
        tmp_path / "plain.pth", args, "--num_classes", "6", "--coco_path", shapes
    )
    page = tmp_path / "page.html"
    run = run_tool(error_report, path, "--output", page, "--device", "cpu", "--images", "13",
                   "--threshold", "0.9")  # fmt: skip
    assert run.code == 0
    (line,) = (line for line in run.out.splitlines() if "no score reaches" in line)
    entries = [(entry["score"], data_of(page)["names"][entry["class"]], card["id"])
               for card in data_of(page)["cards"] for entry in card["found"]]  # fmt: skip
    score, name, number = max(entries)
    files = json.loads((shapes / "annotations/instances_val2017.json").read_text())["images"]
    (file,) = (image["file_name"] for image in files if image["id"] == number)
    assert f"({name} in {file}); try --threshold 0." in line
    assert float(line.split("best is ")[1].split()[0]) == pytest.approx(score, abs=0.01)
    run = run_tool(error_report, path, "--output", page, "--device", "cpu", "--threshold", "0",
                   "--force")  # fmt: skip
    assert "no score reaches" not in run.out
    assert "dashed" not in data_of(page)["notes"]["images"]


def test_a_split_without_detections_is_not_explained(shapes, tmp_path):
    summary: ErrorSummary = page_of(shapes, tmp_path / "page.html", lambda *_: [], most=2)
    assert not summary.nothing_found
    assert "dashed" not in data_of(tmp_path / "page.html")["notes"]["images"]
